"""The contents of a sweep's files: a running sweep writes these classes, and a report reads them.

Types are not converted: "1" is no number. Unknown keys are ignored.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, RootModel

from lit_blip2.ablation.spec.expect import Expected
from lit_blip2.ablation.spec.grid import Range
from lit_blip2.terminal import printable

BY_PIP = " (installed)"  # suffix of a library's name among what a step has read
NO_FILES = ("/proc/", "/sys/", "/dev/")  # system folders, whose files may have no end
WAITING = "waiting"  # state of a cell without a record
DONE, FAILED, PRUNED = STATES = ("done", "failed", "pruned")


def _inside(name: str) -> str:
    """The name of something in the sweep's folder; it may include folders."""
    if name.startswith("/") or {"..", "", "."} & set(name.split("/")) or printable(name) != name or "\\" in name:
        raise ValueError(f"{name!r} leads out of the sweep's folder, or is no name")
    return name


def _read(name: str) -> str:
    """What a step has read: a file, the names in a folder (`FOLDER/*.txt`, `FOLDER/*/`), or `LIBRARY (installed)`."""
    folder, star, ending = name.rpartition("/*")
    path = (folder or "/") if star else name.removesuffix(BY_PIP)
    plain = path not in ("", ".", "..") and "\0" not in path and os.path.normpath(path) == path
    plain = plain and not path.startswith(("//", "../")) and not f"{path}/".startswith(NO_FILES)
    listed = not star or ("*" not in ending and "/" not in ending.removesuffix("/"))
    if not plain or not listed or (name.endswith(BY_PIP) and "/" in path):
        raise ValueError(f"{printable(name)!r} is no path of a file that a step could have read")
    return name


Inside = Annotated[str, AfterValidator(_inside)]
Read = Annotated[str, AfterValidator(_read)]
# A time without a zone is taken for UTC, as a sweep writes all its times: else they could not be compared.
Time = Annotated[
    datetime,
    AfterValidator(lambda time: time if time.tzinfo else time.replace(tzinfo=UTC)),
    PlainSerializer(datetime.isoformat),
]
Spent = Annotated[float, Field(ge=0, lt=1e15, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # JSON has larger numbers, which cannot be drawn or added


def is_finite(value: float | None) -> bool:
    """Whether a metric has a value that can be compared."""
    return value is not None and math.isfinite(value)


def finite(value: float | None) -> float | None:
    """A metric's value; None if it is not finite."""
    return value if is_finite(value) else None


class Saved(BaseModel):
    """Base of the classes that are saved as JSON."""

    model_config = ConfigDict(strict=True, frozen=True, ser_json_inf_nan="constants")


class StepRun(Saved):
    """One run of one step of an ablation's chain.

    name: `stage1/itc=on,seed=0`, with the labels on which all cells that share it agree; also its folder below runs/.
    parents: step -> name of the run that it reads; for a test, the run that it tests comes first. `$step` in the config
    stands for that run's folder. code: digest of the package's code that it uses; empty in older plans. key: digest of
    all that its results depend on: that code, the config, the files that it names, the parents' keys. max_steps: None
    for a test.
    """

    name: Inside
    step: str
    command: str
    key: str
    code: str = ""
    folder: Inside
    parents: dict[str, Inside]
    config: dict[str, Any]
    max_steps: Whole | None


class Cell(Saved):
    """One setting at one seed. steps: its step runs, in order. metrics: for each compared metric the run that writes
    it; None if the cell cannot have it."""

    name: Inside
    labels: dict[str, str]
    seed: Whole
    steps: list[Inside]
    metrics: dict[str, str | None]

    @property
    def setting(self) -> str:
        """The name without the seed."""
        return setting_name(self.labels)


class Search(Saved):
    """The ranges of a search, the objective that guides it, and its number of trials (None in older plans)."""

    objective: str
    direction: str
    ranges: dict[str, Range]
    trials: int | None = None


class Plan(Saved):
    """What is run, and what was asked. identity: digest of all that makes two sweeps the same one. files: a digest of
    each file or folder that a step's config names. looked: when these were read, in seconds. A search's plan has no
    cells: its trials are known only once they have ended."""

    name: str
    question: str = ""
    expect: str = ""
    expected: list[Expected] = []
    compare: list[tuple[str, str]] = []  # settings
    left_out: list[str] = []  # what the scale lacks and why; steps that no cell runs
    command: str = ""
    axes: dict[str, list[str]]
    seeds: list[Whole] = []
    metrics: list[str]
    control: dict[str, str] | None = None
    identity: str
    sources: str
    files: dict[str, str] = {}
    looked: float = math.inf
    commit: str | None = None
    dirty: bool | None = None
    versions: dict[str, str | None] = {}
    machine: str = ""
    workers: Whole | None = None
    search: Search | None = None
    cells: list[Cell]
    steps: dict[Inside, StepRun]

    def uses(self) -> Counter[str]:
        """Step run -> number of cells that use it."""
        return Counter(name for cell in self.cells for name in set(cell.steps))


class Done(Saved):
    """A step whose process ended well. steps: optimiser steps; None for a test. parents: each run that it started from
    or tested, and the runs behind those -> the optimiser steps behind it then. metrics: whether it left a metrics.json.
    reads: other files that it read, see lit_blip2.ablation.run.reads. Older records lack parents and metrics."""

    key: str
    seconds: Spent
    steps: Whole | None
    peak_memory_gib: Spent
    began: Time
    ended: Time
    attempts: Whole
    parents: dict[Inside, Whole] = {}
    metrics: bool = False
    reads: dict[Read, str] = {}


class Parents(RootModel[dict[Inside, Whole]]):
    """Each run that a fit started from, and the runs behind those -> the optimiser steps behind it then."""

    model_config = ConfigDict(strict=True, frozen=True)


class Failure(Saved):
    """Why a step failed. key: the step run's, in failed.json."""

    key: str | None = None
    step: Inside
    message: str
    log_tail: list[str]


class Reached(Saved):
    """How far a step run of a cell came, in optimiser steps. planned: steps that a fit was to make. made: steps that
    the fit made, or the run that a test tested. measured: step of the weights that its compared metrics were measured
    with. Each is None if it is not known."""

    planned: Whole | None
    made: Whole | None
    measured: Whole | None


class Record(Saved):
    """How a cell ended. name: the cell's, or `trial=7`. worker: who ran a grid's cell. steps: a trial's step runs,
    which no plan lists. keys: of each of its step runs. reached: of those that have ended well. commit, dirty: of the
    code that ran it, as in a plan. Older records lack some of these."""

    name: Inside | None = None
    state: Literal[STATES]
    metrics: dict[str, float | None]
    error: Failure | None
    labels: dict[str, str]
    seed: Whole
    worker: str | None = None
    steps: list[Inside] = []
    keys: dict[Inside, str] = {}
    reached: dict[Inside, Reached] = {}
    commit: str | None = None
    dirty: bool | None = None
    began: Time
    ended: Time


class Decided(Saved):
    """The outcome of one expected comparison. claim: in Markdown. short: the same with only the labels that differ.
    verdict: in words. difference, interval (its two ends), p (Holm's): None if there is none."""

    claim: str
    short: str = ""
    metric: str = ""
    verdict: str
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None


class Found(Saved):
    """A sweep's report in short. cells: number of planned cells. done: number of those that ended well. warnings: in
    Markdown, trainings that ended at another step than planned, or were measured at another than their last. plot: path
    of the plot that shows most of the outcome; older ones name none."""

    name: str
    question: str
    expect: str
    expected: list[Decided]
    seeds: list[int]
    cells: int
    done: int
    warnings: list[str] = []
    plot: Inside | Literal[""] = ""


class Validation(BaseModel):
    """The metrics of a run at one optimiser step."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float | None]

    step: Whole

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metric -> value; None if it was not finite."""
        return self.model_extra


class Metrics(RootModel[dict[str, Annotated[float | None, AfterValidator(finite)]]]):
    """A run's metrics.json. A metric that is not finite is None."""

    model_config = ConfigDict(strict=True, frozen=True)


def is_of(record: Record, cell: Cell) -> bool:
    """Whether a record is the cell's own, and not a copy of another cell's."""
    return record.name in (None, cell.name) and (record.labels, record.seed) == (cell.labels, cell.seed)


def setting_name(labels: Mapping[str, str]) -> str:
    """The name of a setting: `itc=on,itm=off`."""
    return ",".join(f"{axis}={label}" for axis, label in labels.items()) or "base"
