"""Turns predictions, the rows of predictions.jsonl, into a test's metrics and into files for evaluation servers."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_blip2.evaluation.item_metric import ItemMetric
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.lemmas import LEMMATISERS
from lit_blip2.evaluation.metrics import POPE, CaptionScores, VQAAccuracy
from lit_blip2.evaluation.pope import is_pope, yes_or_no
from lit_blip2.evaluation.vqa import Scoring
from lit_blip2.whole_files import write_json

PREDICTIONS, PREDICTED = "predictions.jsonl", "predict.jsonl"  # of a test, and of predict
Rows = Sequence[Mapping[str, Any]]
# task -> the file for a server, and the rows' keys of an id and a prediction
SUBMISSIONS = {
    "caption": ("submission_captions.json", "image_id", "caption"),
    "vqa": ("submission_vqa.json", "question_id", "answer"),
}
# server that a row may name -> its keys of an id and an answer; other servers use the rows' keys
SERVERS = {"gqa": ("questionId", "prediction"), "vizwiz": ("image", "answer")}
SHOWN = 10  # ids in a message


def score(rows: Rows, lemmatised: bool = False, scoring: Scoring = "official", **captioning: Any) -> dict[str, Items]:
    """The values behind every metric, from the rows that have references or answers; {} if there are none.

    lemmatised: compare answers by their lemmas. scoring: whose rules score answers. captioning: how captions are
    scored, see CaptionScores. Warns of empty predictions.
    """
    captions = [row for row in rows if row["task"] == "caption" and row["references"]]
    answers = [row for row in rows if row["task"] == "vqa" and row["answers"]]
    for task, scored in (("caption", captions), ("vqa", answers)):
        if told := _empty(task, scored):
            warnings.warn(told, stacklevel=2)
    items = _captions(captions, captioning) if captions else {}
    return items | (_answers(answers, lemmatised, scoring) if answers else {})


def submit(rows: Rows, folder: str | Path | None) -> None:
    """Write the server's file of each task in the rows: [{"image_id" or "question_id", "caption" or "answer"}], with
    the server's own keys, and with ids as the file of questions or images has them.

    Rows are sorted by id. folder: None: only check. Raises ValueError, with the ids, for duplicate predictions, and for
    empty ones if no row has references; if some have, it warns and leaves the file out.
    """
    for task, (name, key, value) in SUBMISSIONS.items():
        file = Path(folder, name) if folder else None
        if file:
            file.unlink(missing_ok=True)  # left by an earlier test
        if not (own := [row for row in rows if row["task"] == task]):
            continue
        if twice := [name for name, count in Counter(_id(row, key) for row in own).items() if count > 1]:
            raise ValueError(f"{name}: {key} {_some(twice)} stand there twice")
        if told := _empty(task, own):
            if not any(row["references" if task == "caption" else "answers"] for row in own):
                raise ValueError(f"{name} is not written, a server would refuse it: {told}")
            if file:
                warnings.warn(f"{name} is not written, a server would refuse it: {told}", stacklevel=2)
        elif file:
            content = _submission(sorted(own, key=lambda row: row[key]), key, value)
            write_json(file, content, indent=None)


def _submission(rows: Rows, key: str, value: str) -> list | dict:
    """The content of a server's file. A-OKVQA's gives each question a direct answer and no choice."""
    if rows[0].get("server") == "aokvqa":
        return {str(_id(row, key)): {"direct_answer": row[value], "multiple_choice": ""} for row in rows}
    their_key, their_value = SERVERS.get(rows[0].get("server"), (key, value))
    return [{their_key: _id(row, key), their_value: row[value]} for row in rows]


def _id(row: Mapping[str, Any], key: str) -> int | str:
    """The id as its file has it."""
    return row.get("written_id", row[key])


def _captions(rows: Rows, captioning: Mapping[str, Any]) -> dict[str, Items]:
    columns = ([row.get(key) for row in rows] for key in ("caption", "references", "image_id", "domain"))
    return _scored(CaptionScores(**captioning, sync_on_compute=False), *columns)


def _answers(rows: Rows, lemmatised: bool, scoring: Scoring) -> dict[str, Items]:
    """vqa/accuracy, mean_over_types and type_*; for POPE also yes_* and pope/*; and no_image if it was asked for."""
    keys = ("answers", "question_type", "image_id", "question_id")
    truths, types, *about = ([row[key] for row in rows] for key in keys)
    said = LEMMATISERS[scoring] if lemmatised else str
    given, blind, items = [said(row["answer"]) for row in rows], [row["no_image"] for row in rows], {}
    if is_pope(types):
        given = [yes_or_no(answer) for answer in given]
        samplings = [name.partition(" ")[2] for name in types]
        items |= _scored(POPE(sync_on_compute=False), given, [answer for (answer,) in truths], samplings, *about)
    items |= _scored(VQAAccuracy(scoring, sync_on_compute=False), given, truths, types, *about)
    if blind[0] is not None:
        unseen = _scored(VQAAccuracy(scoring, sync_on_compute=False), [*map(said, blind)], truths, types, *about)
        items["vqa/no_image"] = unseen["vqa/mean_over_types"]
    return items


def _scored(metric: ItemMetric, *columns: Sequence[Any]) -> dict[str, Items]:
    """The items that a metric makes of rows, which are those of all ranks."""
    metric.update(*columns)
    metric.compute()
    return metric.items


def _empty(task: str, rows: Rows) -> str:
    """A message on a task's rows with blank predictions; "" if there are none."""
    _, key, value = SUBMISSIONS[task]
    empty = [_id(row, key) for row in rows if not row[value].strip()]
    return f"{len(empty)} of {len(rows)} {value}s are empty, of {key} {_some(empty)}" if empty else ""


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:SHOWN])) + (" and others" if len(ids) > SHOWN else "")
