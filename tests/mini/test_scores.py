"""Captions read back and scored: the grammar's own are perfect, and hand-made ones score what was worked out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_blip2.mini.grammar import KINDS, UNSAID, Mention, caption_text, draw_caption
from lit_blip2.mini.scores import Score, read_caption, score_caption
from lit_blip2.mini.truth import is_true
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene, draw_scene


def thing(size: str, colour: str, shape: str, place: str) -> Object:
    return Object(SHAPES.index(shape), COLOURS.index(colour), SIZES.index(size), PLACES.index(place), 0, 0)


RING = thing("small", "red", "ring", "top left")
STAR = thing("large", "blue", "star", "right")
PAIR = Scene((RING, STAR), background=0)
TWINS = Scene((RING, thing("large", "red", "ring", "bottom")), background=0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n_objects=st.integers(1, 4), kind=st.sampled_from(KINDS))
def test_the_grammars_own_captions_are_read_back_and_perfect(seed, n_objects, kind):
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, n_objects)
    caption = draw_caption(scene, rng, kind if n_objects > 1 else None)
    text = caption_text(caption)
    assert read_caption(text) == (caption.mentions, caption.relation)
    assert score_caption(text, scene) == Score(1.0, 1.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n_objects=st.integers(2, 4), kind=st.sampled_from(("no place", "plain", "relation")))
def test_exact_is_the_truth_of_complete_captions(seed, n_objects, kind):
    """Told of a scene that differs in sizes and places: exact if and only if `is_true` says so."""
    rng = np.random.default_rng(seed)
    told, moved = draw_scene(rng, n_objects), draw_scene(rng, n_objects)
    pairs = zip(told.objects, moved.objects, strict=True)
    shown = told._replace(objects=tuple(o._replace(size=m.size, cell=m.cell) for o, m in pairs))
    caption = draw_caption(told, rng, kind)
    assert score_caption(caption_text(caption), shown).exact == is_true(caption, shown)


@pytest.mark.parametrize(
    ("text", "precision", "recall", "exact"),
    [
        ("a small red ring at top left and a large blue star at right", 1, 1, 1),
        ("a blue star and a red ring", 1, 1, 1),
        ("A Blue Star and a red ring.", 1, 1, 1),
        ("a red ring left of a blue star", 1, 1, 1),
        ("a red ring right of a blue star", 1, 1, 0),  # objects are right, their relation is not
        ("a red star and a blue ring", 0, 0, 0),  # the bag of words is right, the binding is not
        ("a red ring", 1, 0.5, 0),
        ("a red ring at top and a blue star", 0.5, 0.5, 0),
        ("a red ring , a red ring and a blue star", 2 / 3, 1, 0),  # there is one red ring
        ("a red ring and a blue star and", 2 / 3, 1, 0),  # an empty clause
        ("a red ring and a blue", 0.5, 0.5, 0),
        ("a red ring left of a blue", 0.5, 0.5, 0),
        ("ring red a", 0, 0, 0),
        ("", 0, 0, 0),
        ("a red ring , a blue star and a blue star left of a red ring", 2 / 3, 1, 0),  # only the first may relate
    ],
)
def test_by_hand(text, precision, recall, exact):
    assert score_caption(text, PAIR) == pytest.approx((precision, recall, exact))


def test_matching_is_the_best_one_whatever_the_order():
    """The plain mention must leave the small ring to the mention that needs it."""
    for clauses in itertools.permutations(["a red ring", "a small red ring"]):
        assert score_caption(" and ".join(clauses), TWINS) == Score(1.0, 1.0, 1.0)
    assert score_caption("a small red ring and a small red ring", TWINS) == Score(0.5, 0.5, 0.0)


def test_reading_names_what_is_said():
    silent = Mention(SHAPES.index("ring"), COLOURS.index("red"), UNSAID, UNSAID)
    top = silent._replace(cell=PLACES.index("top"))
    assert read_caption("a red ring , nonsense and a red ring at top").mentions == (silent, None, top)
