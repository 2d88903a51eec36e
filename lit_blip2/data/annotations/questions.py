"""Questions with their answers, from the files of VQAv2, OK-VQA, GQA, Visual Genome and POPE."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_blip2.data.annotations.captions import image_files
from lit_blip2.data.annotations.entries import Entry, listed_entries, read_json
from lit_blip2.data.annotations.strings import Strings, digest_of
from lit_blip2.evaluation.pope import TYPE as POPE

UNTYPED = "question"  # the type of questions that have none
IMAGES_OF = {"test-dev2015": "test2015"}  # data_subtype of questions -> of their images, where the two differ
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
    content = read_json(questions)
    if annotations is None and not (unanswered and _is_vqav2(content)):
        return _table(_answered(content, questions, files), questions)
    top = Entry(content, questions)
    asked = _by_id(top.entries("questions"), questions)
    if annotations is None:
        warnings.warn(f"{questions} comes without answers: they are generated, not scored", stacklevel=2)
        answered: dict[int, Marks] = dict.fromkeys(asked, Marks(UNTYPED, []))
    else:
        answered = _marks(asked, questions, annotations)
    subtype = top.text("data_subtype", default=None)
    rows = (
        Question(
            question_id,
            image_id := row.image_id(),
            _file_name(image_id, files, subtype, questions),
            row.text("question").strip(),
            *answered[question_id],
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


class Marks(NamedTuple):
    """What annotators said of a question."""

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


def _answered(content, path: str | Path, files: Mapping[int, str]) -> Iterator[Question]:
    """The questions of a file that holds their answers as well."""
    rows = listed_entries(content, path) if isinstance(content, list) else []
    if isinstance(content, dict) and any(isinstance(row, dict) and "imageId" in row for row in content.values()):
        yield from (_gqa_question(number, row) for number, row in Entry(content, path).items())
    elif any("qas" in image for image in rows):
        yield from (_vg_question(row, files) for image in rows for row in image.entries("qas"))
    elif any({"image", "text", "label"} <= row.values.keys() for row in rows):
        yield from map(_pope_question, rows)
    else:
        raise ValueError(
            f"{path} holds no answers: it is none of GQA's questions, Visual Genome's question_answers.json and POPE's "
            "lines. VQAv2's and OK-VQA's need their annotations as well"
        )


def _gqa_question(number: str, row: Entry) -> Question:
    image = row.text("imageId")
    if not re.fullmatch(r"[0-9]{1,18}", number) or not re.fullmatch(r"n?[0-9]{1,10}", image):
        raise row.error(f"question {number!r} of image {image!r}: both must be numbers, the image's perhaps after an n")
    image_id = int(image.lstrip("n")) + (OTHER_IMAGES if image.startswith("n") else 0)
    kind = row.entry("types", default={}).text("structural", default=UNTYPED)
    return Question(int(number), image_id, f"{image}.jpg", row.text("question").strip(), kind, [row.text("answer")])


def _vg_question(row: Entry, files: Mapping[int, str]) -> Question:
    text, image_id = row.text("question").strip(), row.image_id()
    kind = next(iter(text.lower().split()), UNTYPED)  # what, where, when, who, why, how
    file = files.get(image_id, f"{image_id}.jpg")
    return Question(row.number("qa_id"), image_id, file, text, kind, [row.text("answer").rstrip(".")])


def _pope_question(row: Entry) -> Question:
    number, image = row.number("question_id"), row.file("image")
    if (digits := re.search(r"(\d+)\.\w+$", image)) is None:
        raise row.error(f"question {number}: {image!r} ends in no image id")
    return Question(number, int(digits[1]), image, row.text("text").strip(), POPE, [row.text("label").lower()])


@cache
def question_types(questions: str | Path, annotations: str | Path | None = None) -> frozenset[str]:
    """The types of the questions that `read_questions` would read; none of those without answers."""
    if annotations is None:
        content = read_json(questions)
        return frozenset() if _is_vqav2(content) else frozenset(row.type for row in _answered(content, questions, {}))
    marks = Entry(read_json(annotations), annotations).entries("annotations")
    return frozenset(mark.text("question_type", null=UNTYPED) for mark in marks)


def _by_id(rows: list[Entry], path: str | Path) -> dict[int, Entry]:
    table: dict[int, Entry] = {}
    for row in rows:
        if (number := row.number("question_id")) in table:
            raise ValueError(f"{path}: question id {number} stands there twice")
        table[number] = row
    if not table:
        raise ValueError(f"{path} holds no questions")
    return table


def _marks(asked: dict[int, Entry], questions: str | Path, annotations: str | Path) -> dict[int, Marks]:
    """What was said of each question. Raises ValueError where the two files do not fit."""
    marks = _by_id(Entry(read_json(annotations), annotations).entries("annotations"), annotations)
    if lonely := sorted(asked.keys() ^ marks.keys()):
        raise ValueError(
            f"{len(lonely)} question ids stand in only one of {questions} and {annotations}: {lonely[:5]}..."
        )
    said, counts = {}, {}
    for number, row in asked.items():
        mark = marks[number]
        if (own := row.image_id()) != (image_id := mark.image_id() if "image_id" in mark else own):
            raise ValueError(
                f"question {number} belongs to image {own} in {questions} and to image {image_id} in {annotations}"
            )
        answers = [answer.text("answer", null="") for answer in mark.entries("answers")]
        said[number] = Marks(mark.text("question_type", null=UNTYPED), answers)
        counts.setdefault(len(answers), number)
    if len(counts) > 1:
        raise ValueError(f"{annotations}: numbers of answers differ, number -> a question id: {counts}")
    return said


def _file_name(image_id: int, files: Mapping[int, str], subtype: str | None, path: str | Path) -> str:
    if image_id in files:
        return files[image_id]
    if subtype is None:
        raise ValueError(
            f"{path}: no file name is known for image {image_id}: it is in no caption file of this split, nor in"
            " `images`, and the questions file has no data_subtype (such as val2014) to name it by"
        )
    folder = IMAGES_OF.get(subtype, subtype)
    return f"{folder}/COCO_{folder}_{image_id:012d}.jpg"
