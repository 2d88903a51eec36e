"""POPE's questions in the mini-world: balanced, true of their scenes, drawn as each sampling says."""

import json
from collections import Counter
from hashlib import sha256

import pytest

from lit_blip2.data.annotations.questions import read_questions
from lit_blip2.mini.pope import KINDS, POOL, Beside, kinds_in, write_pope
from lit_blip2.mini.scene_files import load_scenes, scenes_file
from lit_blip2.mini.world import COLOURS, SHAPES, Object, Scene
from lit_blip2.mini.write import write_world


def scene(*kinds: tuple[int, int]) -> Scene:
    return Scene(tuple(Object(shape, colour, 0, cell, 0, 0) for cell, (colour, shape) in enumerate(kinds)), 0)


def test_what_samplings_draw_from_by_hand():
    """(2, 2) is shown thrice, (1, 1) and (0, 1) twice; beside (0, 0) stand (1, 1) twice and (2, 2) once."""
    scenes = [
        scene((0, 0), (1, 1)),
        scene((0, 0), (1, 1), (2, 2)),
        scene((0, 1), (2, 2)),
        scene((0, 1), (2, 2), (2, 2)),
    ]
    counted = Beside(scenes)
    pools = counted.pools([(0, 0)])
    assert pools["random"] == [kind for kind in KINDS if kind != (0, 0)]
    assert pools["popular"][:4] == [(2, 2), (0, 1), (1, 1), (0, 2)]
    assert pools["adversarial"][:3] == [(1, 1), (2, 2), (0, 1)]
    assert len(pools["popular"]) == len(pools["adversarial"]) == POOL
    assert counted.pools([(0, 0), (0, 1)])["adversarial"][0] == (2, 2)  # thrice beside one of both


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "mini"
    write_world(out, train=20, val=9, test=8, seed=1, workers=1)
    return out


def digests(root) -> dict[str, str]:
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in (root / "annotations").iterdir()}


def test_questions_are_true_and_balanced(world):
    write_pope(world)
    for split, size in (("val", 9), ("test", 8)):
        scenes = load_scenes(scenes_file(world, split)).scenes
        text = (world / f"annotations/pope_{split}.json").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        counts = Counter((row["category"], row["label"]) for row in rows)
        samplings = ("random", "popular", "adversarial")
        assert counts == {(name, label): size for name in samplings for label in ("yes", "no")}
        for row in rows:
            *_, colour, shape, _ = row["text"].split()
            there = kinds_in(scenes[int(row["image"].removesuffix(".png"))])
            assert ((COLOURS.index(colour), SHAPES.index(shape)) in there) == (row["label"] == "yes")
        table = read_questions(world / f"annotations/pope_{split}.json")
        assert Counter(table.types) == {f"pope {name}": 2 * size for name in samplings}
        assert len(set(table.image_ids.tolist())) == size


def test_they_are_written_again_alike_and_beside_all_else(world):
    write_pope(world)
    before = digests(world)
    (world / "annotations/pope_test.json").unlink()
    write_pope(world)
    assert digests(world) == before
