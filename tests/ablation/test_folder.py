"""A sweep's files: what was written is read, old ones too, and what is wrong is told in a line each."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lit_blip2.ablation.folder import Folder, SweepError, read, read_validations, write
from lit_blip2.ablation.schema import Cell, Failure, Metrics, Plan, Record, Search, StepRun
from lit_blip2.ablation.spec.grid import Range

RECORDS = sorted(Path("ablations/results").glob("*/cells/*.json"))
BEGAN = datetime(2026, 1, 1, 12, 0, 0, 250, UTC)
RUN = {"parents": {"stage0": "stage0/seed=0"}, "config": {"a": [1, None, {"b": 0.5}]}, "max_steps": 7}
RUN |= {"name": "stage1/seed=0", "step": "stage1", "command": "fit", "key": "k", "folder": "runs/stage1/seed=0"}


def record(**fields) -> Record:
    known = {"state": "done", "metrics": {}, "error": None, "labels": {}, "seed": 0, "began": BEGAN, "ended": BEGAN}
    return Record(**known | fields)


def test_a_plan_that_was_written_is_read(tmp_path):
    cell = Cell(name="seed=0", labels={}, seed=0, steps=["stage1/seed=0"], metrics={"loss/lm": None})
    search = Search(
        objective="loss/lm", direction="minimize", ranges={"layers": Range(key="stage1.model.layers", low=1, high=3)}
    )
    asked = {"compare": [("itc=on", "itc=off")], "axes": {"itc": ["on"]}, "metrics": ["loss/lm"], "search": search}
    plan = Plan(name="x", identity="i", sources="s", cells=[cell], steps={"stage1/seed=0": StepRun(**RUN)}, **asked)
    write(tmp_path / "plan.json", plan)
    again = read(tmp_path / "plan.json", Plan)
    assert again == plan and type(again.search.ranges["layers"].low) is int
    assert "question" not in json.loads((tmp_path / "plan.json").read_text())  # was not said


def test_times_stay_in_iso_format_and_figures_that_are_not_finite_stay_what_they_are(tmp_path):
    write(tmp_path / "cell.json", record(metrics={"a": math.nan, "b": -math.inf, "c": None, "d": 0.1}))
    again = read(tmp_path / "cell.json", Record)
    assert math.isnan(again.metrics.pop("a")) and again.metrics == {"b": -math.inf, "c": None, "d": 0.1}
    assert json.loads((tmp_path / "cell.json").read_text())["began"] == "2026-01-01T12:00:00.000250+00:00"


def test_the_committed_results_are_read():
    assert RECORDS
    for file in RECORDS:
        read_back = read(file, Record)
        assert json.loads(read_back.model_dump_json(exclude_unset=True)) == json.loads(file.read_text())


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read(tmp_path / "done.json", Record) is None
    assert read_validations(tmp_path / "validation.jsonl") == ([], [])


def test_everything_that_is_wrong_with_a_file_is_told_in_a_line_each(tmp_path):
    content = json.loads(record().model_dump_json()) | {"state": "fine", "metrics": {"a": "x", "b": True}, "seed": "0"}
    del content["labels"]
    (tmp_path / "cell.json").write_text(json.dumps(content | {"ended": "tomorrow", "unknown": 1}))
    with pytest.raises(SweepError) as error:
        read(tmp_path / "cell.json", Record)
    lines = [line.removeprefix(f"{tmp_path}/").partition(": remove it")[0] for line in str(error.value).split("\n")]
    assert lines[:-1] == [
        "cell.json: state 'fine' is none of done, failed, pruned",
        "cell.json: metrics.a is 'x', not a number",
        "cell.json: metrics.b is True, not a number",
        "cell.json: no 'labels'",
        "cell.json: seed is '0' and should be a valid integer",
    ]
    assert lines[-1].startswith("cell.json: ended is 'tomorrow' and should be a valid datetime")


def test_lines_of_validations_that_cannot_be_read_are_told_and_the_others_are_read(tmp_path):
    lines = [
        '{"step": 1, "a": 2, "b": null}',
        '{"step": 2, "a',
        '{"a": 1.0}',
        "7",
        '{"step": 3, "a": "x"}',
        '{"step": 4',
    ]
    (tmp_path / "validation.jsonl").write_text("\n".join(lines))
    points, faults = read_validations(tmp_path / "validation.jsonl")
    assert [(point.step, point.metrics) for point in points] == [(1, {"a": 2.0, "b": None})]
    assert [fault.partition(", line ")[2].partition(" (")[0] for fault in faults] == [
        "2 cannot be read as JSON",
        "3: no 'step': remove the line",
        "4 holds 7, not an object with entries: remove the line",
        "5: a is 'x', not a number: remove the line",
    ]


def test_records_are_listed_by_number_and_those_being_written_are_not(tmp_path):
    for name in ("trial=10", "trial=2", ".trial=3"):
        write(Folder(tmp_path).cell(name), record(error=Failure(step="s", message="m", log_tail=[])))
    assert [file.stem for file in Folder(tmp_path).cells()] == ["trial=2", "trial=10"]


def test_metrics_are_numbers_or_nothing(tmp_path):
    (tmp_path / "metrics.json").write_text('{"a": 1, "b": NaN, "c": null}')
    assert read(tmp_path / "metrics.json", Metrics).root["a"] == 1.0
    (tmp_path / "metrics.json").write_text('{"a": "1"}')
    with pytest.raises(SweepError, match="a is '1', not a number"):
        read(tmp_path / "metrics.json", Metrics)
