"""Questions to train on: one draw of each answer as often as it was given, and where images are."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_blip2.commands.check import check
from lit_blip2.data.batches.order import StepBatchSampler
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.coco import COCO
from lit_blip2.data.features.writer import sections
from lit_blip2.data.mixture import Mixture
from lit_blip2.data.questions import VQA
from lit_blip2.data.shards.packing import pack

ANSWERS = ["red"] * 6 + ["orange"] * 3 + ["pink"]


@pytest.fixture
def root(tmp_path):
    """Two images, three questions."""
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png"} for number in (1, 2)]
    captions = [{"image_id": number, "caption": "a wall", "id": number} for number in (1, 2)]
    asked = [{"question_id": 7 + i, "image_id": m, "question": f"what is {i} ?"} for i, m in enumerate((1, 1, 2))]
    marks = [
        {"question_id": each["question_id"], "question_type": "what", "answers": [{"answer": a} for a in ANSWERS]}
        for each in asked
    ]
    write(tmp_path / "captions.json", {"images": images, "annotations": captions})
    write(tmp_path / "questions.json", {"questions": asked})
    write(tmp_path / "answers.json", {"annotations": marks})
    return tmp_path


def write(path: Path, content) -> None:
    path.write_text(json.dumps(content))


def questions(root: Path, **kwargs) -> VQA:
    files = {"questions": "questions.json", "annotations": "answers.json", "images": "captions.json"}
    return VQA(str(root), train=files, images="images", image_size=8, augment=False, **kwargs)


def test_answers_come_as_often_as_they_were_given(root):
    table = questions(root).train_pairs().texts
    drawn = [table.draw(1, np.random.default_rng(seed)) for seed in range(2000)]
    assert {each["question"] for each in drawn} == {"what is 1 ?"}
    shares = {answer: count / 2000 for answer, count in Counter(each["answer"] for each in drawn).items()}
    assert shares == pytest.approx({"red": 0.6, "orange": 0.3, "pink": 0.1}, abs=0.04)


def test_an_epoch_asks_every_question_once(root):
    pairs = questions(root).train_pairs()
    data, sampler = TrainPairs(pairs, seed=0), StepBatchSampler(pairs.order, 3, 0, 0, 1)
    (batch,) = (data.__getitems__(keys) for keys in sampler)
    assert sorted(batch["question"]) == ["what is 0 ?", "what is 1 ?", "what is 2 ?"]
    assert set(batch["answer"]) <= set(ANSWERS) and "caption" not in batch
    assert batch["image"].shape == (3, 3, 8, 8) and sorted(batch["image_id"].tolist()) == [1, 1, 2]


def test_captions_and_questions_in_one_batch_are_refused(root):
    captions = COCO(str(root), train="captions.json", images="images", image_size=8)
    mixture = Mixture({"vqa": questions(root), "coco": captions}, root=str(root), weights={"vqa": 1, "coco": 1})
    mixture.image_size = mixture.sources["vqa"].image_size = mixture.sources["coco"].image_size = 8
    pairs = mixture.train_pairs()
    sampler = StepBatchSampler(pairs.order, 5, 0, 0, 1)
    with pytest.raises(ValueError, match="a mixture of sources with"):
        TrainPairs(pairs, seed=0).__getitems__(next(iter(sampler)))


def test_visual_genomes_images_lie_in_two_folders(root):
    url = "https://host/VG_100K_2/{}.jpg"
    write(root / "image_data.json", [{"image_id": number, "url": url.format(number)} for number in (1, 2)])
    asked = [{"qas": [{"qa_id": 5, "image_id": 2, "question": "Where is it?", "answer": "On a wall."}]}]
    write(root / "qa.json", asked)
    data = VQA(str(root), train={"questions": "qa.json", "images": "image_data.json"})
    table = data.train_pairs().texts
    assert table.files[0] == "VG_100K_2/2.jpg"
    assert table.draw(0, np.random.default_rng(0)) == {"question": "Where is it?", "answer": "On a wall"}


def test_a_file_that_names_no_images_is_refused(root):
    write(root / "captions.json", {"annotations": []})
    with pytest.raises(ValueError, match=r"captions\.json names no images"):
        questions(root).train_pairs()


def test_missing_files_and_missing_settings(root):
    with pytest.raises(ValueError, match=r"set data.train to \{questions: FILE"):
        VQA(str(root)).train_files()
    (root / "answers.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"answers\.json"):
        questions(root).check_files("fit")


def test_an_image_of_several_questions_is_kept_once(root):
    data = questions(root)
    data.check_files = lambda stage: None  # there is nothing to evaluate on
    (section,) = sections(data)
    assert section.image_ids.tolist() == [1, 2] and len(section.keys) == 2
    assert [section.read(place).getpixel((0, 0))[0] for place in (0, 1)] == [1, 2]


def experiment(root: Path) -> Path:
    given = {"root": str(root), "images": "images", "image_size": 8}
    given["train"] = {"questions": "questions.json", "annotations": "answers.json", "images": "captions.json"}
    write(root / "experiment.json", {"data": {"class_path": "lit_blip2.data.questions.VQA", "init_args": given}})
    return root / "experiment.json"


def test_checking_opens_each_image_once(root, capsys):
    check([experiment(root)], workers=1)
    assert "looked at 2 of 2 images" in capsys.readouterr().out


def test_packing_questions_is_refused(root):
    with pytest.raises(ValueError, match="shards hold captions, questions stay in their files"):
        pack([experiment(root)], root / "shards")


def test_questions_without_an_answer_are_left_out_and_counted(root):
    marks = json.loads((root / "answers.json").read_text())
    marks["annotations"][0]["answers"] = [{"answer": " "}] * 10
    marks["annotations"][1]["answers"] = [{"answer": ""}] * 9 + [{"answer": "red"}]
    write(root / "answers.json", marks)
    with pytest.warns(UserWarning, match="1 questions without an answer left out"):
        table = questions(root).train_pairs().texts
    assert table.question_ids.tolist() == [8, 9] and table.texts[0] == "what is 1 ?"
    assert {table.draw(0, np.random.default_rng(seed))["answer"] for seed in range(20)} == {"red"}
    for mark in marks["annotations"]:
        mark["answers"] = [{"answer": ""}]
    write(root / "answers.json", marks)
    with pytest.raises(ValueError, match=r"answers\.json holds no answers"):
        questions(root).train_pairs()


def test_a_row_that_lacks_something_is_named(root):
    asked = json.loads((root / "questions.json").read_text())
    del asked["questions"][1]["image_id"]
    write(root / "questions.json", asked)
    with pytest.raises(ValueError, match=r"questions\.json: entry 2 of questions: image_id is not there"):
        questions(root).train_pairs()
