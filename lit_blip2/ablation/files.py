"""What a sweep leaves in its folder: who runs a sweep writes these classes, and who reports it reads them.

    plan.json                      Plan: what is run, and what was asked
    cells/<cell>.json              Record: what a cell came to, once it has ended
    runs/<step>/<labels>/          a run of an ordinary command, and in it
        done.json or failed.json   Done or Failure, once it has ended
        metrics.json               Metrics: what it ended with
        validation.jsonl           of a run that trains: a Validation a line
    configs/, locks/               the resolved YAML of each step run, and a lock for each step run and cell
    study.db                       the queue, unless --storage names another
    tensorboard/<cell>/            one row of the HParams table, and the cell's curves

Types are not converted: "1" is no number. Keys that nobody knows are passed over.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from lit_blip2.ablation.spec.grid import Range
from lit_blip2.whole_files import written_whole

DONE, FAILED, PRUNED = STATES = ("done", "failed", "pruned")
WAY_OUT = "remove it, and run the sweep again to have it made anew"
SHOWN = 80  # characters of a value that is wrong


class Saved(BaseModel):
    """What is saved as JSON."""

    model_config = ConfigDict(strict=True, frozen=True, ser_json_inf_nan="constants")


class StepRun(Saved):
    """One run of one step of an ablation's chain.

    name: `stage1/itc=on,seed=0`, of the labels on which all cells that share it agree; also its folder below runs/.
    parents: step -> name of the run that it reads, of a test first the run that it tests; `$step` in the config stands
    for that run's folder. max_steps: None of a test.
    """

    name: str
    step: str
    command: str
    key: str
    folder: str
    parents: dict[str, str]
    config: dict[str, Any]
    max_steps: int | None


class Cell(Saved):
    """One setting at one seed: its step runs in order, and for each compared metric the run that writes it, None where
    the cell cannot have it."""

    name: str
    labels: dict[str, str]
    seed: int
    steps: list[str]
    metrics: dict[str, str | None]

    @property
    def setting(self) -> str:
        """The name without the seed."""
        return setting_name(self.labels)


class Search(Saved):
    """Where a search looks, and by what."""

    objective: str
    direction: str
    ranges: dict[str, Range]


class Plan(Saved):
    """What is run, and what was asked. identity: digest of all that makes two sweeps the same one. A search's plan has
    no cells: its trials are known once they have ended."""

    name: str
    question: str = ""
    expect: str = ""
    compare: list[tuple[str, str]] = []  # settings
    command: str = ""
    axes: dict[str, list[str]]
    seeds: list[int] = []
    metrics: list[str]
    control: dict[str, str] | None = None
    identity: str
    sources: str
    commit: str | None = None
    dirty: bool | None = None
    versions: dict[str, str | None] = {}
    machine: str = ""
    workers: int | None = None
    search: Search | None = None
    cells: list[Cell]
    steps: dict[str, StepRun]

    def uses(self) -> Counter[str]:
        """Step run -> how many cells stand on it."""
        return Counter(name for cell in self.cells for name in set(cell.steps))


class Done(Saved):
    """A step whose process ended well. steps: optimiser steps, None of a test."""

    key: str
    seconds: float
    steps: int | None
    peak_memory_gib: float
    began: str
    ended: str
    attempts: int


class Failure(Saved):
    """Why a step failed. key: that of the step run, in failed.json."""

    key: str | None = None
    step: str
    message: str
    log_tail: list[str]


class Record(Saved):
    """What a cell came to. worker: of a grid's cell. steps: of a trial, which no plan knew."""

    state: Literal[STATES]
    metrics: dict[str, float | None]
    error: Failure | None
    labels: dict[str, str]
    seed: int
    worker: str | None = None
    steps: list[str] = []
    began: str
    ended: str


class Validation(BaseModel):
    """The metrics of a run at one optimiser step."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float | None]

    step: int

    @property
    def metrics(self) -> dict[str, float | None]:
        """None where a metric was not finite."""
        return self.model_extra


class Metrics(RootModel[dict[str, float | None]]):
    """metrics.json of a run."""

    model_config = ConfigDict(strict=True, frozen=True)


class SweepError(ValueError):
    """What keeps a sweep's files from being read: one line for each problem."""


Kind = TypeVar("Kind", bound=BaseModel)


class Folder:
    """Paths in a sweep's folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    def cell(self, name: str) -> Path:
        return self.root / "cells" / f"{name}.json"

    def cells(self) -> list[Path]:
        """Of those that have ended: trial=2 before trial=10, and no file that is being written."""
        files = [file for file in self.root.glob("cells/*.json") if not file.name.startswith(".")]
        return sorted(files, key=lambda file: (len(file.stem), file.stem))

    def run(self, name: str) -> Path:
        """The folder of a step run, `stage1/itc=on,seed=0`."""
        return self.root / "runs" / name

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.yaml"

    def done(self, name: str) -> Path:
        return self.run(name) / "done.json"

    def failed(self, name: str) -> Path:
        return self.run(name) / "failed.json"

    def metrics(self, name: str) -> Path:
        return self.run(name) / "metrics.json"

    def validations(self, name: str) -> Path:
        return self.run(name) / "validation.jsonl"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"


def write(file: Path, saved: Saved) -> None:
    """Another process never reads half a file. What was left out of `saved` is left out of the file."""
    with written_whole(file) as part:
        part.write_text(saved.model_dump_json(indent=1, exclude_unset=True) + "\n", encoding="utf-8")


def read(file: Path, kind: type[Kind]) -> Kind | None:
    """None if there is no such file. Raises SweepError with everything that is wrong with a damaged one."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise SweepError("\n".join(f"{file}{each}: {WAY_OUT}" for each in _faults(error))) from error


def read_validations(file: Path) -> tuple[list[Validation], list[str]]:
    """The lines of a validation.jsonl as far as they can be read, and what is wrong with the others.

    A last line without its end is being written at this moment, or was when its process was killed: it is left out.
    """
    points, faults = [], []
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            points.append(Validation.model_validate_json(line))
        except ValidationError as error:
            faults += [f"{file}, line {number},{each}: remove the line" for each in _faults(error)]
    return points, faults


def _faults(error: ValidationError) -> Iterator[str]:
    """Each of its problems in the words of this project, to stand behind a file's name."""
    for each in error.errors():
        name, given = ".".join(map(str, each["loc"])), repr(each["input"])[:SHOWN]
        match each["type"]:
            case "json_invalid":
                yield f" cannot be read as JSON ({each['ctx']['error']})"
            case "missing":
                yield f": no {name!r}"
            case "literal_error":
                yield f": {name} {given} is none of {', '.join(STATES)}"
            case "float_type":
                yield f": {name} is {given}, not a number"
            case _ if not name:
                yield f" holds {given}, not an object with entries"
            case _:
                yield f": {name} is {given} and {each['msg'].lower().replace('input ', '', 1)}"


def setting_name(labels: Mapping[str, str]) -> str:
    """`itc=on,itm=off`."""
    return ",".join(f"{axis}={label}" for axis, label in labels.items()) or "base"


def is_finite(value: float | None) -> bool:
    """Whether a metric has a value that can be compared."""
    return value is not None and math.isfinite(value)
