"""Questions with their answers, from the files of VQAv2, OK-VQA, GQA, Visual Genome and POPE."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_blip2.data.annotations.captions import image_files, load_json
from lit_blip2.data.annotations.strings import Strings, digest_of
from lit_blip2.evaluation.pope import TYPE as POPE

UNTYPED = "question"  # the type of questions that have none
OTHER_IMAGES = 10**10  # GQA's images that are not Visual Genome's: n161313 is this much and 161313


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

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, str]:
        """A question and an answer of it that says something, each as often as it was given; one draw from `rng`."""
        answers = [answer for answer in self.answers_of(index) if answer]
        return {"question": self.texts[index], "answer": answers[int(rng.random() * len(answers))]}

    def digest(self) -> str:
        """Of all images' names, questions and answers."""
        texts = (part for each in (self.files, self.texts, self.types, self.answers) for part in each.arrays())
        return digest_of(self.question_ids, self.image_ids, *texts)

    def answered(self) -> "Questions":
        """Those with an answer that says something."""
        count = len(self.answers) // len(self)
        says = (
            (np.diff(self.answers.offsets).reshape(-1, count) > 0).any(1) if count else np.zeros(len(self), dtype=bool)
        )
        if says.all():
            return self
        kept = np.flatnonzero(says).tolist()
        return Questions(
            self.question_ids[kept],
            self.image_ids[kept],
            *(Strings(each[row] for row in kept) for each in (self.files, self.texts, self.types)),
            Strings(answer for row in kept for answer in self.answers_of(row)),
        )


def read_questions(
    questions: str | Path,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    files: Mapping[int, str] | None = None,
    unanswered: bool = False,
) -> Questions:
    """Read questions and their answers: VQAv2's and OK-VQA's two files, or GQA's, Visual Genome's or POPE's one.

    VQAv2 names no files: `images` (COCO's captions, or Visual Genome's image_data.json) or `files` (image id -> file
    name) do, and where they are silent COCO's own naming is used, with the data_subtype of the questions file. GQA and
    Visual Genome have one answer to a question; their images are ID.jpg (Visual Genome's where `images` is silent), and
    the type of a GQA question is its structural one. POPE's lines are about COCO's images, and all are of type pope.

    unanswered: VQAv2's questions may come without annotations, as its test splits do; they have no answers then.

    Raises FileNotFoundError, or ValueError naming the file and the ids for: a question or an answer twice, a
    question without its answer or the other way round, two image ids for one question, an image whose file
    cannot be named, differing numbers of answers, another layout.
    """
    files = dict(files or {}) | (image_files(images) if images else {})
    content = load_json(questions) if annotations else _load(questions)
    if annotations is None and not (unanswered and _is_vqav2(content)):
        return _table(_answered(content, questions, files), questions)
    asked = _by_id(content["questions"], questions, "image_id", "question")
    if annotations is None:
        warnings.warn(f"{questions} comes without answers: they are generated, not scored", stacklevel=2)
        answered = {question_id: {"question_type": UNTYPED, "answers": []} for question_id in asked}
    else:
        answered = _by_id(load_json(annotations)["annotations"], annotations, "answers", "question_type")
        _check_pairing(asked, answered, questions, annotations)
    subtype = content.get("data_subtype")
    rows = (
        Question(
            question_id,
            row["image_id"],
            _file_name(row["image_id"], files, subtype, questions),
            row["question"].strip(),
            answered[question_id]["question_type"],
            [answer["answer"] for answer in answered[question_id]["answers"]],
        )
        for question_id, row in asked.items()
    )
    return _table(rows, questions)


class Question(NamedTuple):
    """One question with its answers."""

    question_id: int
    image_id: int
    file: str
    text: str
    type: str
    answers: list[str]


def _table(rows: Iterable[Question], path: str | Path) -> Questions:
    rows = sorted(rows, key=lambda row: (row.image_id, row.question_id))
    if twice := [number for number, count in Counter(row.question_id for row in rows).items() if count > 1]:
        raise ValueError(f"{path}: question id {twice[0]} stands there twice")
    return Questions(
        question_ids=np.array([row.question_id for row in rows], dtype=np.int64),
        image_ids=np.array([row.image_id for row in rows], dtype=np.int64),
        files=Strings(row.file for row in rows),
        texts=Strings(row.text for row in rows),
        types=Strings(row.type for row in rows),
        answers=Strings(answer.strip() for row in rows for answer in row.answers),
    )


def _is_vqav2(content) -> bool:
    return isinstance(content, dict) and isinstance(content.get("questions"), list)


def _load(path: str | Path):
    """JSON, or where each line is some, the list of them."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines if line.strip()] if len(lines) > 1 else load_json(path)
    except ValueError:
        return load_json(path)


def _answered(content, path: str | Path, files: Mapping[int, str]) -> Iterator[Question]:
    """The questions of a file that holds their answers as well."""
    if isinstance(content, dict) and content and all("imageId" in row for row in content.values()):  # GQA
        for number, row in content.items():
            image = row["imageId"]
            image_id = int(image.lstrip("n")) + (OTHER_IMAGES if image.startswith("n") else 0)
            kind = row.get("types", {}).get("structural") or UNTYPED
            yield Question(int(number), image_id, f"{image}.jpg", row["question"].strip(), kind, [row["answer"]])
    elif isinstance(content, list) and content and all("qas" in image for image in content):  # Visual Genome
        for row in (row for image in content for row in image["qas"]):
            kind = row["question"].split(maxsplit=1)[0].lower()  # what, where, when, who, why, how
            file = files.get(row["image_id"], f"{row['image_id']}.jpg")
            text = row["question"].strip()
            yield Question(row["qa_id"], row["image_id"], file, text, kind, [row["answer"].rstrip(".")])
    elif isinstance(content, list) and content and all({"image", "text", "label"} <= row.keys() for row in content):
        for row in content:  # POPE
            digits = re.search(r"(\d+)\.\w+$", row["image"])
            if digits is None:
                raise ValueError(f"{path}: question {row['question_id']}: {row['image']!r} ends in no image id")
            image_id, question = int(digits[1]), row["text"].strip()
            yield Question(row["question_id"], image_id, row["image"], question, POPE, [row["label"].lower()])
    else:
        raise ValueError(
            f"{path} holds no answers: it is none of GQA's questions, Visual Genome's question_answers.json and POPE's "
            "lines. VQAv2's and OK-VQA's need their annotations as well"
        )


@cache
def question_types(questions: str | Path, annotations: str | Path | None = None) -> frozenset[str]:
    """The types of the questions that `read_questions` would read; none of those without answers."""
    if annotations is None:
        content = _load(questions)
        return frozenset() if _is_vqav2(content) else frozenset(row.type for row in _answered(content, questions, {}))
    return frozenset(mark["question_type"] for mark in load_json(annotations)["annotations"])


def _by_id(rows: list[dict], path: str | Path, *needed: str) -> dict[int, dict]:
    table: dict[int, dict] = {}
    for row in rows:
        if lacking := sorted({"question_id", *needed} - row.keys()):
            raise ValueError(f"{path}: question {row.get('question_id', row)} has no {', '.join(lacking)}")
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
            f"{path}: no file name is known for image {image_id}: it is in no caption file of this split, nor in"
            " `images`, and the questions file has no data_subtype (such as val2014) to name it by"
        )
    return f"{subtype}/COCO_{subtype}_{image_id:012d}.jpg"
