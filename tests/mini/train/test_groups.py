import numpy as np
import pytest

from lit_blip2.mini.train.groups import GROUP, described_group, edit
from lit_blip2.mini.truth import is_true
from lit_blip2.mini.world import STREAMS, Object, Scene, bucket, graph

LONE = Scene((Object(0, 1, 0, 4, 1, -1),), 2)
TWO = Scene((Object(0, 1, 0, 4, 1, -1), Object(2, 3, 1, 8, 0, 2)), 0)


@pytest.mark.parametrize("what", ["shape", "colour", "size", "cell"])
def test_an_edit_changes_one_thing(what):
    rng = np.random.default_rng(0)
    for _ in range(20):
        edited = edit(TWO, what, rng)
        pairs = list(zip(TWO.objects, edited.objects, strict=True))
        changed = [name for a, b in pairs for name in Object._fields if getattr(a, name) != getattr(b, name)]
        assert changed == [what]
        assert len({o.cell for o in edited.objects}) == 2


def test_a_swap_keeps_the_words_and_needs_two_objects():
    rng = np.random.default_rng(0)
    assert edit(LONE, "swap", rng) is None
    assert [o.colour for o in edit(TWO, "swap", rng).objects] == [3, 1]


@pytest.mark.parametrize("most", [1, 4])
def test_a_groups_captions_are_true_of_their_own_scene_alone(most):
    for index in range(60):
        group = described_group(0, "picture", index, most)
        assert len(group) == len({graph(told.scene) for told in group}) == GROUP
        for told in group:
            assert [is_true(told.captions[0], other.scene) for other in group] == [other is told for other in group]
            assert bucket(told.scene) in STREAMS["picture"][1] and len(told.scene.objects) <= most


def test_a_group_is_a_function_of_its_index():
    assert described_group(0, "picture", 5) == described_group(0, "picture", 5)
    assert described_group(0, "picture", 5) != described_group(0, "picture", 6)
