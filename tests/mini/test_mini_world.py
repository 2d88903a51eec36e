import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.render import PIXELS, render, stamps
from lit_blip2.mini.truth import is_true
from lit_blip2.mini.world import SHAPES, STREAMS, Object, Scene, bucket, graph, swap_colours, swappable

RED, GREEN = 0, 1
CIRCLE, SQUARE = 0, 1


def two_objects() -> Scene:
    return Scene((Object(CIRCLE, RED, 0, 0, 0, 0), Object(SQUARE, GREEN, 1, 8, 1, -1)), 0)


def test_swap_exchanges_only_colours():
    swapped = swap_colours(two_objects(), 0, 1)
    assert swapped.objects == (Object(CIRCLE, GREEN, 0, 0, 0, 0), Object(SQUARE, RED, 1, 8, 1, -1))
    assert swap_colours(swapped, 0, 1) == two_objects()


def test_objects_alike_in_shape_or_colour_cannot_swap():
    a, b = two_objects().objects
    assert swappable(Scene((a, b), 0)) == [(0, 1)]
    assert swappable(Scene((a, b._replace(shape=CIRCLE)), 0)) == []
    assert swappable(Scene((a, b._replace(colour=RED)), 0)) == []


@settings(max_examples=50, deadline=None)
@given(index=st.integers(0, 10**6), stream=st.sampled_from(sorted(STREAMS)))
def test_pairs_are_reproducible_swapped_and_in_their_buckets(index, stream):
    (a, b), _ = described_pair(3, stream, index)
    (again, _), _ = described_pair(3, stream, index)
    assert a == again
    assert bucket(a.scene) in STREAMS[stream][1] and bucket(b.scene) in STREAMS[stream][1]
    assert len({o.cell for o in a.scene.objects}) == len(a.scene.objects)
    if len(a.scene.objects) > 1:
        swaps = [swap_colours(a.scene, i, j) for i, j in swappable(a.scene)]
        assert b.scene.objects in [s.objects for s in swaps]
    for mine, other in ((a, b), (b, a)):
        assert all(is_true(c, mine.scene) and not is_true(c, other.scene) for c in mine.captions)


def test_splits_share_no_scene_graph():
    graphs = {
        split: {graph(d.scene) for k in range(150) for d in described_pair(0, split, k)[0]}
        for split in ("train", "val", "test")
    }
    assert not graphs["train"] & graphs["val"]
    assert not graphs["train"] & graphs["test"]
    assert not graphs["val"] & graphs["test"]


def test_bucket_ignores_order_background_jitter_and_swap():
    scene = two_objects()
    a, b = scene.objects
    assert bucket(scene) == bucket(Scene((b, a._replace(dx=2)), 3)) == bucket(swap_colours(scene, 0, 1))


def test_every_shape_has_its_own_mask():
    masks = stamps()
    assert masks.shape[:2] == (len(SHAPES), 2)
    assert masks.min() == 0 and masks.max() == 1
    assert (masks[:, 1].sum((1, 2)) > 2 * masks[:, 0].sum((1, 2))).all()
    for size in range(2):
        flat = masks[:, size].reshape(len(SHAPES), -1)
        distance = np.abs(flat[:, None] - flat[None]).sum(-1) + 1e9 * np.eye(len(SHAPES))
        assert distance.min() > 15  # pixels of difference between the two most alike


def test_render_puts_the_colour_at_the_place():
    images = render([two_objects(), swap_colours(two_objects(), 0, 1)], np.random.default_rng(0))
    assert images.shape == (2, PIXELS, PIXELS, 3) and images.dtype == np.uint8
    circle, square = images[:, 9:14, 9:14].mean((1, 2)), images[:, 49:54, 51:56].mean((1, 2))
    assert circle[0].argmax() == square[1].argmax() == 0  # red
    assert circle[1].argmax() == square[0].argmax() == 1  # green
    assert images[0, 25:40, 25:40].max() < 120  # nothing at the centre


def test_render_is_a_function_of_its_generator():
    first, second, other = (render([two_objects()], np.random.default_rng(s)) for s in (5, 5, 6))
    assert (first == second).all() and (first != other).any()
