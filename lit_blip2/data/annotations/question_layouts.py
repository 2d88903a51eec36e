"""Reads question files in every known layout, with answers or, for a server's test set, without.

The keys of a file tell its layout. Each row becomes a `Question`. A layout also names its evaluation server, because
servers name ids and answers differently.
"""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_blip2.contents import DataError, shown
from lit_blip2.data.annotations.entries import Entry, listed_entries
from lit_blip2.data.annotations.ids import Name, image_number, last_digits
from lit_blip2.data.annotations.splits import of_splits
from lit_blip2.data.annotations.unread import what_it_is
from lit_blip2.evaluation.pope import TYPE as POPE

UNTYPED = "question"  # the type of questions without one
IMAGES_OF = {"test-dev2015": "test2015"}  # data_subtype of questions -> that of their images, if they differ
# Columns of multiple-choice options, in lower case; an answer may be the letter of one.
OPTIONS = ({"options"}, {"a", "b"}, {"choice_a", "choice_b"}, {"option_a", "option_b"})
OTHER_IMAGES = 10**10  # added to ids of GQA's images outside Visual Genome: n161313 -> this + 161313


class Question(NamedTuple):
    """One question with its answers. name: its id as the file spells it."""

    name: Name
    image_id: int
    file: str
    text: str
    type: str
    answers: list[str]


class Asked(NamedTuple):
    """The questions of one file. server: the server whose submission they are for, see evaluation/predictions.py."""

    rows: list[Question]
    server: str = "vqa"


def asked_in(
    content: Any, path: str | Path, files: Mapping[int, str], split: str, listed: Mapping[int, str] | None = None
) -> Asked:
    """The questions of one file that needs no second one. files: image id -> file, as far as known. split: train, val
    or test; selects rows if they name several splits. listed: the part of `files` that comes from a given list of
    images; Visual Genome's questions must be about these.

    Raises DataError that names the file, and what it is, if it holds no questions.
    """
    if not isinstance(content, dict | list):
        raise Entry({}, path).error(f"must be an object or a list of them, and is {shown(content)}")
    if isinstance(content, dict) and {"image", "text", "label"} <= content.keys():
        content = [content]  # JSON lines with a single line
    rows = of_splits(listed_entries(content, path), [split]) if isinstance(content, list) else []
    keys = set().union(*(row.values for row in rows))
    known = what_it_is(content)
    if isinstance(content, dict) and any(isinstance(row, dict) and "imageId" in row for row in content.values()):
        listed = of_splits([row for _, row in Entry(content, path).items()], [split])
        return Asked([_gqa(row) for row in listed], "gqa")
    if isinstance(content, dict) and isinstance(content.get("questions"), list):
        return Asked(_unanswered_vqa(Entry(content, path), files, split))
    if isinstance(content, dict) and _asks(content.get("data")):
        return Asked([_textvqa(row) for row in of_splits(Entry(content, path).entries("data"), [split])])
    if "qas" in keys:
        asked = [row for image in rows for row in image.entries("qas")]
        # COCO captions beside them use the same ids for other images
        own = files if all(row.image_id() in files for row in asked) else {}
        return Asked([_visual_genome(row, own if listed is None else listed, listed is None) for row in asked])
    if {"image", "text", "label"} <= keys:
        return Asked([_pope(row) for row in rows])
    if {"question", "question_id", "choices"} <= keys:
        if difficult := sum(row.flag("difficult_direct_answer") for row in rows):
            said = f"{difficult} questions are marked difficult_direct_answer: A-OKVQA's own script leaves them out"
            warnings.warn(f"{path}: {said} of its direct answers, here they are asked and scored", stacklevel=3)
        return Asked([_aokvqa(row, files) for row in rows], "aokvqa")
    if {"image", "question"} <= keys and not {"question_id", "answer"} & keys:
        return Asked([_vizwiz(row) for row in rows], "vizwiz")
    if {"image", "question"} <= keys:
        _check_no_letters(rows, {str(key).strip().lower() for key in keys})
        named = "question_id" in keys
        return Asked([_lavis(row, None if named else place) for place, row in enumerate(rows)])
    if known and not known.endswith("as questions"):
        raise DataError(f"{path} holds no questions: it holds {known}")
    names = ", ".join(sorted(map(str, keys or content)))[:100] or "none"
    raise DataError(f"{path} holds no questions in a layout that is read: its keys are {names}")


def coco_subtype(top: Entry) -> str | None:
    """The set of COCO photos that a file's questions are about, such as val2014. None if the file does not say, and for
    VQA's abstract scenes, which are drawings."""
    return None if "abstract" in top.text("data_type", default="") else top.text("data_subtype", default=None)


def coco_file(image_id: Name, files: Mapping[int, str], subtype: str | None, path: str | Path) -> str:
    """The path of an image of VQAv2's questions: from `files`, else by COCO's naming of images of this subtype. Raises
    DataError if neither gives one."""
    if (number := image_number(image_id)) in files:
        return files[number]
    if subtype is None or not str(image_id).isdecimal():
        raise DataError(
            f"{path}: no file name is known for image {image_id}: it is in no caption file of this split, nor in"
            " `images`, and the questions file has no data_subtype of COCO's photos (such as val2014) to name it by"
        )
    folder = IMAGES_OF.get(subtype, subtype)
    return f"{folder}/COCO_{folder}_{number:012d}.jpg"


def _check_no_letters(rows: Sequence[Entry], keys: Collection[str]) -> None:
    """Raises DataError for multiple choice, such as MMBench's and MMMU's, whose answers are letters of options."""
    answers = [str(row.values.get("answer", "")).strip() for row in rows]
    if any(each <= keys for each in OPTIONS) and all(re.fullmatch("[A-Ja-j]", each) for each in answers):
        raise DataError(
            f"{rows[0].path} is multiple choice, and its answers are letters of options: write the text of the right "
            "option as answer, or let lmms-eval ask it of a run (docs/evaluation.md)"
        )


def _asks(rows: Any) -> bool:
    return isinstance(rows, list) and any(isinstance(row, dict) and "question" in row for row in rows)


def _gqa(row: Entry) -> Question:
    """GQA. Its test and submission questions have neither answers nor types."""
    number, image = row.place[-1], row.text("imageId")
    if not re.fullmatch(r"[0-9]{1,18}", number) or not re.fullmatch(r"n?[0-9]{1,10}", image):
        raise row.error(f"question {number!r} of image {image!r}: both must be numbers, the image's perhaps after an n")
    image_id = int(image.lstrip("n")) + (OTHER_IMAGES if image.startswith("n") else 0)
    kind = row.entry("types", default={}).text("structural", default=UNTYPED)
    return Question(number, image_id, f"{image}.jpg", row.text("question").strip(), kind, _one_answer(row))


def _unanswered_vqa(top: Entry, files: Mapping[int, str], split: str) -> list[Question]:
    subtype = coco_subtype(top)
    made = []
    for row in of_splits(top.entries("questions"), [split]):
        file = coco_file(row.name("image_id"), files, subtype, row.path)
        made.append(Question(row.name("question_id"), row.image_id(), file, row.text("question").strip(), UNTYPED, []))
    return made


def _textvqa(row: Entry) -> Question:
    """TextVQA. Its images come from OpenImages, whose ids are words."""
    file, answers = f"{row.name('image_id')}.jpg", row.texts("answers", default=[])
    return Question(row.name("question_id"), row.image_id(), file, row.text("question").strip(), UNTYPED, answers)


def _visual_genome(row: Entry, files: Mapping[int, str], unlisted: bool) -> Question:
    """unlisted: an image that `files` lacks is ID.jpg, as if all lay in one folder; else it raises DataError."""
    text, image_id = row.text("question").strip(), row.image_id()
    kind = next(iter(text.lower().split()), UNTYPED)  # what, where, when, who, why, how
    if (file := files.get(image_id)) is None and not unlisted:
        raise row.error(
            f"image {image_id} is not in the list of images: list it there, or leave out what asks about it"
        )
    return Question(
        row.name("qa_id"), image_id, file or f"{image_id}.jpg", text, kind, [row.text("answer").rstrip(".")]
    )


def _pope(row: Entry) -> Question:
    name, image = row.name("question_id"), row.file("image")
    if not re.search(r"[0-9]\.\w+$", image):
        raise row.error(f"question {name}: {image!r} ends in no image id")
    if (label := row.text("label").strip().lower()) not in ("yes", "no"):
        raise row.error(f"question {name}: label must be yes or no, and is {row.text('label')[:60]!r}")
    kind = f"{POPE} {row.text('category', default='')}".strip()
    return Question(name, _image_id(image), image, row.text("text").strip(), kind, [label])


def _aokvqa(row: Entry, files: Mapping[int, str]) -> Question:
    """A-OKVQA. Its images are COCO's of 2017; LAVIS' copy names each file. Direct answers count, not the choices."""
    image_id = row.image_id() if "image_id" in row or "image" not in row else _image_id(row.file("image"))
    if "image" in row:
        file = row.file("image")
    elif (file := files.get(image_id)) is None:
        file = f"{row.text('split')}2017/{image_id:012d}.jpg"
    answers = row.texts("direct_answers", default=[])
    if (given := row.values.get("direct_answers")) is not None and answers == [given]:
        raise row.error(f"direct_answers must be a list, and is a text, {answers[0][:60]!r}")
    return Question(row.name("question_id"), image_id, file, row.text("question").strip(), UNTYPED, answers)


def _vizwiz(row: Entry) -> Question:
    """VizWiz asks one question per image, so the image's file name is the question's id."""
    answers = [answer.text("answer", null="") for answer in row.entries("answers", default=[])]
    file, text, kind = row.file("image"), row.text("question").strip(), row.text("answer_type", default=UNTYPED)
    return Question(file, _image_id(file), file, text, kind, answers)


def _lavis(row: Entry, number: int | None) -> Question:
    """LAVIS' own copies of VQAv2, OK-VQA, GQA and Visual Genome. The full stop of Visual Genome's answers is dropped.
    number: the id of a row that has none, as in Visual Genome."""
    file, text, answers = row.file("image"), row.text("question").strip(), _answers(row)
    if number is not None or row.values.get("dataset") == "vg" or "VG_100K" in file:
        answers = [answer.rstrip(".") for answer in answers]
    return Question(
        row.name("question_id") if number is None else number, _image_id(file), file, text, UNTYPED, answers
    )


def _answers(row: Entry) -> list[str]:
    """All annotators' answers of a row: `answers`, or else `answer`."""
    given = row.values.get("answers")
    if isinstance(given, list) and given and isinstance(given[0], dict):
        return [answer.text("answer", null="") for answer in row.entries("answers")]
    return row.texts("answers") if given else row.texts("answer", default=[])


def _image_id(file: str) -> int:
    """The id at the end of a file's name, as in COCO and Visual Genome."""
    return image_number(last_digits(Path(file).stem))


def _one_answer(row: Entry) -> list[str]:
    answer = row.text("answer", default=None)
    return [] if answer is None else [answer]
