"""Tables of questions with their answers, read from one file or from VQAv2's and OK-VQA's two."""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.captions import image_files
from lit_blip2.data.annotations.entries import Entry, read_json
from lit_blip2.data.annotations.ids import Name, name_of, question_number, written
from lit_blip2.data.annotations.question_layouts import UNTYPED, Asked, Question, asked_in, coco_file, coco_subtype
from lit_blip2.data.annotations.splits import of_splits
from lit_blip2.data.annotations.strings import Strings, digest_of
from lit_blip2.data.annotations.tables import SEPARATORS
from lit_blip2.data.annotations.unread import refuse_by_name, what_it_is


@dataclass(frozen=True)
class Questions:
    """Q questions, sorted by image and then by question id, with A answers each.

    question_ids, image_ids: int64 [Q]; files: Q paths relative to the image folder; texts: Q questions;
    types: Q question types; answers: Q * A answers, those of question i at i * A to (i + 1) * A. written_ids: Q ids in
    JSON as the file spells them, if any of them is a text. server: the server whose submission the answers are for.
    """

    question_ids: np.ndarray
    image_ids: np.ndarray
    files: Strings
    texts: Strings
    types: Strings
    answers: Strings
    written_ids: Strings | None = None
    server: str = "vqa"

    def __len__(self) -> int:
        return len(self.question_ids)

    def answers_of(self, index: int) -> list[str]:
        count = len(self.answers) // len(self)
        return list(map(self.answers.__getitem__, range(index * count, (index + 1) * count)))

    def written_id(self, index: int) -> Name:
        """The id of a question as its file spells it."""
        return name_of(self.question_ids[index], self.written_ids, index)

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, str]:
        """A question and one of its non-empty answers, drawn as often as annotators gave it. Draws from `rng` once."""
        answers = [answer for answer in self.answers_of(index) if answer]
        return {"question": self.texts[index], "answer": answers[int(rng.random() * len(answers))]}

    def digest(self) -> str:
        """A hash of all file names, questions, types, answers and ids."""
        texts = (self.files, self.texts, self.types, self.answers, self.written_ids)
        return digest_of(self.question_ids, self.image_ids, *texts)

    def answered(self) -> "Questions":
        """The questions that have a non-empty answer."""
        count = len(self.answers) // len(self)
        says = (
            (np.diff(self.answers.offsets).reshape(-1, count) > 0).any(1) if count else np.zeros(len(self), dtype=bool)
        )
        if says.all():
            return self
        kept = np.flatnonzero(says).tolist()
        return replace(
            self,
            question_ids=self.question_ids[kept],
            image_ids=self.image_ids[kept],
            files=Strings(self.files[row] for row in kept),
            texts=Strings(self.texts[row] for row in kept),
            types=Strings(self.types[row] for row in kept),
            answers=Strings(answer for row in kept for answer in self.answers_of(row)),
            written_ids=self.written_ids and Strings(self.written_ids[row] for row in kept),
        )


def read_questions(
    questions: str | Path,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    files: Mapping[int, str] | None = None,
    split: str = "train",
) -> Questions:
    """Read questions and their answers: VQAv2's and OK-VQA's two files, or one file in a layout of `question_layouts`.

    VQAv2 names no image files. `images` (captions of COCO or Karpathy, or Visual Genome's image_data.json) or `files`
    (image id -> file name) name them. For the rest, COCO's own naming is used, with the data_subtype of the questions
    file or, in VQA-CP, the coco_split of each question. GQA and Visual Genome have one answer per question; their
    images are ID.jpg (Visual Genome's only without `images`), and the type of a GQA question is its structural one.
    POPE asks about COCO's images; its questions have the type pope, followed by their category if they name one.

    split: train, val or test; selects rows if they name several splits. Questions of "test" may lack answers.

    Raises FileNotFoundError, or DataError naming the file and the ids for: a question or an answer listed twice, a
    question without its answer or the other way round, a question without words, a question to evaluate on with only
    empty answers, two image ids for one question, an image without a known file, differing numbers of answers, an
    unknown layout.
    """
    refuse_by_name(Path(questions))
    if Path(questions).suffix in SEPARATORS:
        raise DataError(f"{questions} is not read: questions are read from JSON, not from tables")
    listed = image_files(images) if images else None
    files = dict(files or {}) | (listed or {})
    content = read_json(questions)
    if "multiple choice" in (what := what_it_is(content)):
        raise DataError(f"{questions} is not read: it holds {what}")
    if annotations is None:
        asked = asked_in(content, questions, files, split, listed)
    else:
        asked = Asked(_of_two_files(_top(content, questions, "questions"), annotations, files, split))
    return _table(_with_answers(asked, questions, annotations or questions, split), questions, annotations or questions)


def _with_answers(asked: Asked, path: str | Path, annotations: str | Path, split: str) -> Asked:
    """Check the answers. Only a test set may lack all of them: then every question gets an empty list. Questions with
    only empty answers pass in training, which leaves them out, and raise DataError elsewhere."""
    silent = [row for row in asked.rows if not any(map(str.strip, row.answers))]
    if len(silent) == len(asked.rows):
        if split != "test":
            raise DataError(
                f"{annotations} holds no answers: VQAv2's and OK-VQA's questions need their annotations as well, and "
                "what a server has the answers of can only be tested on (data.vqa_test)"
            )
        warnings.warn(f"{path} comes without answers: they are generated, not scored", stacklevel=3)
        return asked._replace(rows=[row._replace(answers=[]) for row in asked.rows])
    if split != "train" and (empty := [row.name for row in silent if row.answers]):
        raise DataError(
            f"{annotations}: {len(empty)} questions have no answer but empty ones, the first is question {empty[0]!r}:"
            " leave them out, nothing can be scored there"
        )
    return asked


class Marks(NamedTuple):
    """What annotators said about a question."""

    type: str
    answers: list[str]


def _table(asked: Asked, path: str | Path, annotations: str | Path) -> Questions:
    if not asked.rows:
        raise DataError(f"{path} holds no questions")
    if silent := [row.name for row in asked.rows if not row.text]:
        raise DataError(f"{path}: {len(silent)} questions are empty, the first is question {silent[0]}: leave them out")
    numbered = [(row.image_id, question_number(row.name), row) for row in asked.rows]
    rows = sorted(numbered, key=lambda each: each[:2])
    count_of = Counter(number for _, number, _ in rows)
    if twice := [row.name for _, number, row in rows if count_of[number] > 1]:
        raise DataError(f"{path}: question id {twice[0]} stands there twice")
    file_of: dict[int, str] = {}
    for image_id, _, row in rows:
        if file_of.setdefault(image_id, row.file) != row.file:
            raise DataError(
                f"{path}: image id {image_id} stands for both {file_of[image_id]} and {row.file}: give them as"
                " two files of a Mixture"
            )
    counts: dict[int, Name] = {}
    for row in asked.rows:
        counts.setdefault(len(row.answers), row.name)
    if len(counts) > 1:
        raise DataError(f"{annotations}: numbers of answers differ, number -> a question id: {counts}")
    return Questions(
        question_ids=np.array([number for _, number, _ in rows], dtype=np.int64),
        image_ids=np.array([image_id for image_id, _, _ in rows], dtype=np.int64),
        files=Strings(row.file for _, _, row in rows),
        texts=Strings(row.text for _, _, row in rows),
        types=Strings(row.type for _, _, row in rows),
        answers=Strings(answer.strip() for _, _, row in rows for answer in row.answers),
        written_ids=written([row.name for _, _, row in rows]),
        server=asked.server,
    )


@cache
def question_types(
    questions: str | Path, annotations: str | Path | None = None, split: str = "train"
) -> frozenset[str]:
    """The types of the questions that `read_questions` would read, except those without answers. With two files, all
    types in the annotations: the questions file need not exist yet."""
    if annotations is None:
        content = read_json(questions)
        if isinstance(content, dict) and "questions" in content:
            return frozenset()
        return frozenset(row.type for row in asked_in(content, questions, {}, split).rows if row.answers)
    marks = _top(read_json(annotations), annotations, "annotations").entries("annotations")
    return frozenset(mark.text("question_type", null=UNTYPED) for mark in marks)


def _top(content: Any, path: str | Path, key: str) -> Entry:
    """The object of a file. VQA-CP's files are the bare list under `key`, which is wrapped in an object."""
    return Entry({key: content} if isinstance(content, list) else content, path)


def _of_two_files(top: Entry, annotations: str | Path, files: Mapping[int, str], split: str) -> list[Question]:
    asked = _by_id(top.entries("questions"), top.path)
    marks, subtype = _marks(asked, top.path, annotations, split), coco_subtype(top)
    asked = _by_id(of_splits(list(asked.values()), [split]), top.path)
    return [
        Question(
            row.name("question_id"),
            row.image_id(),
            coco_file(row.name("image_id"), files, row.text("coco_split", default=subtype), top.path),
            row.text("question").strip(),
            *marks[number],
        )
        for number, row in asked.items()
        if number in marks
    ]


def _by_id(rows: list[Entry], path: str | Path) -> dict[int, Entry]:
    table: dict[int, Entry] = {}
    for row in rows:
        if (number := question_number(row.name("question_id"))) in table:
            raise DataError(f"{path}: question id {row.name('question_id')} stands there twice")
        table[number] = row
    if not table:
        raise DataError(f"{path} holds no questions")
    return table


def _marks(asked: dict[int, Entry], questions: str | Path, annotations: str | Path, split: str) -> dict[int, Marks]:
    """question id -> annotation; only of this split, if annotations name their splits. Raises DataError if the two
    files do not fit."""
    marks = _by_id(_top(read_json(annotations), annotations, "annotations").entries("annotations"), annotations)
    if lonely := sorted(asked.keys() ^ marks.keys()):
        names = [(asked | marks)[number].name("question_id") for number in lonely[:5]]
        raise DataError(f"{len(lonely)} question ids stand in only one of {questions} and {annotations}: {names}...")
    said, wanted = {}, set(of_splits(list(marks.values()), [split]))
    for number, row in asked.items():
        if (mark := marks[number]) not in wanted:
            continue
        if row.image_id() != (mark.image_id() if "image_id" in mark else row.image_id()):
            raise DataError(
                f"question {row.name('question_id')} belongs to image {row.name('image_id')} in {questions} and to"
                f" image {mark.name('image_id')} in {annotations}"
            )
        answers = [answer.text("answer", null="") for answer in mark.entries("answers")]
        said[number] = Marks(mark.text("question_type", null=UNTYPED), answers)
    return said
