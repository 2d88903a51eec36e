import json

import numpy as np
import pytest
from PIL import Image

from lit_blip2.mini.grammar import caption_text
from lit_blip2.mini.scene_files import load_scenes
from lit_blip2.mini.truth import match_matrix
from lit_blip2.mini.world import graph
from lit_blip2.mini.write import write_world

SIZES = {"train": 10, "val": 9, "test": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "mini"
    write_world(out, **SIZES, seed=1, workers=1)
    return out


def read(world, name: str) -> dict:
    return json.loads((world / "annotations" / f"{name}.json").read_text())


def test_captions_are_coco(world):
    ids = set()
    for split, size in SIZES.items():
        captions = read(world, f"captions_{split}")
        assert len(captions["images"]) == size
        assert len(captions["annotations"]) == size * (3 if split == "train" else 1)
        assert {a["image_id"] for a in captions["annotations"]} == {i["id"] for i in captions["images"]}
        for image in captions["images"]:
            with Image.open(world / "images" / split / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"]) == (64, 64)
                assert picture.mode == "RGB"
            ids.add(image["id"])
    assert len(ids) == sum(SIZES.values())


def test_answers_are_vqav2(world):
    for split in SIZES:
        questions = read(world, f"questions_{split}")["questions"]
        answers = read(world, f"answers_{split}")["annotations"]
        assert [q["question_id"] for q in questions] == [a["question_id"] for a in answers]
        for answer in answers:
            assert {a["answer"] for a in answer["answers"]} == {answer["multiple_choice_answer"]}
            assert [a["answer_id"] for a in answer["answers"]] == list(range(1, 11))
            assert answer["answer_type"] in ("yes/no", "number", "other")
        per_image = {}
        for answer in answers:
            per_image.setdefault(answer["image_id"], []).append(answer["question_type"])
        assert all(len(types) == len(set(types)) for types in per_image.values())


def test_scene_file_gives_the_captions_back(world):
    for split in SIZES:
        found = load_scenes(world / "annotations" / f"scenes_{split}.json")
        texts = {}
        for a in read(world, f"captions_{split}")["annotations"]:
            texts.setdefault(a["image_id"], []).append(a["caption"])
        assert {i: [caption_text(c) for c in cs] for i, cs in found.captions.items()} == texts


def test_partners_in_train_are_adjacent_and_untrue(world):
    found = load_scenes(world / "annotations" / "scenes_train.json")
    for i in range(1, SIZES["train"] + 1, 2):
        for mine, other in ((i, i + 1), (i + 1, i)):
            assert not match_matrix(found.captions[mine], [found.scenes[other]]).any()
            assert match_matrix(found.captions[mine], [found.scenes[mine]]).all()


def test_retrieval_sets_have_one_right_answer(world):
    found = load_scenes(world / "annotations" / "scenes_val.json")
    ids = sorted(found.captions)
    true = match_matrix([found.captions[i][0] for i in ids], [found.scenes[i] for i in ids])
    assert (true == np.eye(len(ids), dtype=bool)).all()


def test_binding_pairs_differ_in_two_colours(world):
    binding = read(world, "binding_val")
    found = load_scenes(world / "annotations" / "scenes_val.json")
    assert binding["pairs"]
    listed = {image["id"] for image in binding["images"]}
    for pair in binding["pairs"]:
        scene, swapped = found.scenes[pair["image_id"]], found.scenes[pair["swapped_image_id"]]
        assert {pair["image_id"], pair["swapped_image_id"]} <= listed
        changed = [(a, b) for a, b in zip(scene.objects, swapped.objects, strict=True) if a != b]
        assert len(changed) == 2 and all(a._replace(colour=b.colour) == b for a, b in changed)
        assert pair["caption"] == caption_text(found.captions[pair["image_id"]][0])
    for image in binding["images"]:
        assert (world / "images" / "val" / image["file_name"]).is_file()


def test_same_settings_are_left_and_others_refused(world):
    before = (world / "settings.json").stat().st_mtime_ns
    write_world(world, **SIZES, seed=1, workers=1)
    assert (world / "settings.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"seed=1 \(wanted 2\)"):
        write_world(world, **SIZES, seed=2)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"settings\.json is missing"):
        write_world(tmp_path, **SIZES)


def test_nothing_is_left_behind_on_failure(tmp_path):
    with pytest.raises(ValueError, match="even number"):
        write_world(tmp_path / "mini", train=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.run
def test_workers_do_not_change_the_world(world, tmp_path):
    write_world(tmp_path / "two", **SIZES, seed=1, workers=2)
    names = sorted(p.relative_to(world) for p in world.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    assert all((world / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)


def test_missing_scene_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="make-mini"):
        load_scenes(tmp_path / "annotations" / "scenes_val.json")


def test_no_scene_of_val_or_test_is_in_train(world):
    graphs = {
        s: {graph(x) for x in load_scenes(world / "annotations" / f"scenes_{s}.json").scenes.values()} for s in SIZES
    }
    assert not graphs["train"] & (graphs["val"] | graphs["test"])
