"""Examples for a prompt: which are drawn, and from which questions."""

from dataclasses import replace

import numpy as np
import pytest

from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.annotations.strings import Strings
from lit_blip2.data.batches.examples import Examples
from lit_blip2.data.coco import COCO
from lit_blip2.mini.write import write_world


class NoImages:
    name = "image"

    def load(self, files, image_ids):
        return files


def table(images: int = 4, questions_each: int = 3) -> Questions:
    """Question q of image i has the id 10 i + q; two of three annotators say q, the last says nothing of use."""
    ids = [(image, q) for image in range(images) for q in range(questions_each)]
    return Questions(
        np.array([10 * image + q for image, q in ids]), np.array([image for image, _ in ids]),
        Strings(f"{image}.png" for image, _ in ids), Strings(f"q{q} of {image} ?" for image, q in ids),
        Strings("t" for _ in ids), Strings(answer for _, q in ids for answer in ("hm", str(q), str(q))),
    )  # fmt: skip


def drawn(seed: int = 0, count: int = 3) -> list[list[int]]:
    examples = Examples(table(), NoImages(), count, seed)
    return [examples.rows(question_id, question_id // 10) for question_id in table().question_ids.tolist()]


def test_never_of_the_asked_image_nor_twice_of_one():
    image_ids = table().image_ids
    for question_id, rows in zip(table().question_ids.tolist(), drawn()):
        assert sorted(image_ids[rows].tolist()) == [i for i in range(4) if i != question_id // 10]


def test_a_function_of_seed_and_question():
    assert drawn() == drawn() != drawn(seed=1)
    assert len({tuple(rows) for rows in drawn()[:3]}) > 1  # of one image
    assert [rows[:1] for rows in drawn()] == drawn(count=1)


def test_a_batch_of_each_place_in_the_prompt():
    examples = Examples(table(), NoImages(), 2, 0)
    first, second = examples.batches([0, 11], [0, 1])
    rows = [examples.rows(0, 0), examples.rows(11, 1)]
    for place, batch in enumerate((first, second)):
        assert batch["question_id"] == [table().question_ids[row[place]] for row in rows]
        assert batch["image_id"].tolist() == [i // 10 for i in batch["question_id"]]
        assert batch["image"] == [f"{i // 10}.png" for i in batch["question_id"]]
        assert batch["question"] == [f"q{i % 10} of {i // 10} ?" for i in batch["question_id"]]
        assert batch["answer"] == [str(i % 10) for i in batch["question_id"]]


def test_too_few_images_are_said():
    with pytest.raises(ValueError, match=r"4 examples of different images.*questions about 4 images"):
        Examples(table(), NoImages(), 4, 0)


def test_test_answers_are_not_given_away(tmp_path):
    """Examples for `test` are validation questions; without those, test questions."""
    write_world(tmp_path / "mini", train=2, val=3, test=3, workers=1)
    files = {
        f"vqa_{split}": {name: f"annotations/{file}_{split}.json" for name, file in
                         (("questions", "questions"), ("annotations", "answers"))}
        for split in ("val", "test")
    }  # fmt: skip
    captions = {split: f"annotations/captions_{split}.json" for split in ("val", "test")}
    for given, images in ((files, {3, 4, 5}), ({"vqa_test": files["vqa_test"]}, None)):
        data = COCO(str(tmp_path / "mini"), **captions, **given)
        data.setup("test")
        found = set(data.examples(2).table.image_ids.tolist())
        asked = set(data.tables["test"]["vqa"].image_ids.tolist())
        assert found == asked if images is None else found == images and not found & asked
    data = COCO(str(tmp_path / "mini"), **captions)
    data.setup("test")
    with pytest.raises(ValueError, match=r"2 examples in a prompt need solved questions: set data\.vqa_val"):
        data.examples(2)


def test_an_empty_answer_is_no_solution():
    """Nor is a question solved that has no other."""
    asked = table()
    answers = Strings(word for q in range(12) for word in (("", "", "red") if q % 3 else ("", "", "")))
    given = Examples(replace(asked, answers=answers), NoImages(), 3, 0)
    batches = given.batches(asked.question_ids.tolist(), asked.image_ids.tolist())
    assert {answer for batch in batches for answer in batch["answer"]} == {"red"}
    with pytest.raises(ValueError, match="need solved questions"):
        Examples(replace(asked, answers=Strings([""] * 36)), NoImages(), 3, 0)
