"""Questions with their human answers, from VQAv2's two files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lit_blip2.data.captions import load_json
from lit_blip2.data.strings import Strings


@dataclass(frozen=True)
class Questions:
    """Q questions, sorted by image and then by question id, with A answers each.

    question_ids, image_ids: int64 [Q]; files: Q paths relative to the image folder; texts: Q questions;
    types: Q question types; answers: Q * A answers, those of question i at i * A to (i + 1) * A.
    """

    question_ids: np.ndarray
    image_ids: np.ndarray
    files: Strings
    texts: Strings
    types: Strings
    answers: Strings

    def __len__(self) -> int:
        return len(self.question_ids)

    def answers_of(self, index: int) -> list[str]:
        count = len(self.answers) // len(self)
        return list(map(self.answers.__getitem__, range(index * count, (index + 1) * count)))


def read_questions(questions: str | Path, annotations: str | Path, files: Mapping[int, str] | None = None) -> Questions:
    """Read a questions file and its annotations file.

    VQAv2 names no files: `files` (image id -> file name) does, and where it is silent COCO's own naming is
    used, with the data_subtype of the questions file.

    Raises FileNotFoundError, or ValueError naming the file and the ids for: a question or an answer twice, a
    question without its answer or the other way round, two image ids for one question, an image whose file
    cannot be named, differing numbers of answers.
    """
    content = load_json(questions)
    asked = _by_id(content["questions"], questions)
    answered = _by_id(load_json(annotations)["annotations"], annotations)
    _check_pairing(asked, answered, questions, annotations)
    rows = sorted(asked.values(), key=lambda row: (row["image_id"], row["question_id"]))
    marks = [answered[row["question_id"]] for row in rows]
    subtype = content.get("data_subtype")
    return Questions(
        question_ids=np.array([row["question_id"] for row in rows], dtype=np.int64),
        image_ids=np.array([row["image_id"] for row in rows], dtype=np.int64),
        files=Strings(_file_name(row["image_id"], files or {}, subtype, questions) for row in rows),
        texts=Strings(row["question"].strip() for row in rows),
        types=Strings(mark["question_type"] for mark in marks),
        answers=Strings(answer["answer"] for mark in marks for answer in mark["answers"]),
    )


@cache
def question_types(annotations: str | Path) -> frozenset[str]:
    """The question types that an annotations file marks."""
    return frozenset(mark["question_type"] for mark in load_json(annotations)["annotations"])


def _by_id(rows: list[dict], path: str | Path) -> dict[int, dict]:
    table: dict[int, dict] = {}
    for row in rows:
        if row["question_id"] in table:
            raise ValueError(f"{path}: question id {row['question_id']} stands there twice")
        table[row["question_id"]] = row
    if not table:
        raise ValueError(f"{path} holds no questions")
    return table


def _check_pairing(asked: dict, answered: dict, questions: str | Path, annotations: str | Path) -> None:
    if lonely := sorted(asked.keys() ^ answered.keys()):
        raise ValueError(
            f"{len(lonely)} question ids stand in only one of {questions} and {annotations}: {lonely[:5]}..."
        )
    counts: dict[int, int] = {}
    for question_id, row in asked.items():
        mark = answered[question_id]
        if mark.get("image_id", row["image_id"]) != row["image_id"]:
            raise ValueError(
                f"question {question_id} belongs to image {row['image_id']} in {questions} and to image"
                f" {mark['image_id']} in {annotations}"
            )
        counts.setdefault(len(mark["answers"]), question_id)
    if len(counts) > 1:
        raise ValueError(f"{annotations}: numbers of answers differ, number -> a question id: {counts}")


def _file_name(image_id: int, files: Mapping[int, str], subtype: str | None, path: str | Path) -> str:
    if image_id in files:
        return files[image_id]
    if subtype is None:
        raise ValueError(
            f"{path}: no file name is known for image {image_id}: it is in no caption file of this split,"
            " and the questions file has no data_subtype (such as val2014) to name it by"
        )
    return f"{subtype}/COCO_{subtype}_{image_id:012d}.jpg"
