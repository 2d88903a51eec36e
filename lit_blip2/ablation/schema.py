"""What a sweep's files hold: who runs a sweep writes these classes, and who reports it reads them.

Types are not converted: "1" is no number. Keys that nobody knows are passed over.
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

BY_PIP = " (installed)"  # behind the name of a library among what a step has read
NO_FILES = ("/proc/", "/sys/", "/dev/")  # of the system, whose files may have no end
WAITING = "waiting"  # of a cell that has no record
DONE, FAILED, PRUNED = STATES = ("done", "failed", "pruned")


def _inside(name: str) -> str:
    """A name, also one with folders in it, of what lies in the sweep's folder."""
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
# One without a zone is of UTC, as all are that a sweep writes: others could not be compared with it.
Time = Annotated[
    datetime,
    AfterValidator(lambda time: time if time.tzinfo else time.replace(tzinfo=UTC)),
    PlainSerializer(datetime.isoformat),
]
Spent = Annotated[float, Field(ge=0, lt=1e15, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # of any size JSON has numbers that cannot be drawn or added


def is_finite(value: float | None) -> bool:
    """Whether a metric has a value that can be compared."""
    return value is not None and math.isfinite(value)


def finite(value: float | None) -> float | None:
    """A metric's value, None for one that is not finite."""
    return value if is_finite(value) else None


class Saved(BaseModel):
    """What is saved as JSON."""

    model_config = ConfigDict(strict=True, frozen=True, ser_json_inf_nan="constants")


class StepRun(Saved):
    """One run of one step of an ablation's chain.

    name: `stage1/itc=on,seed=0`, of the labels on which all cells that share it agree; also its folder below runs/.
    parents: step -> name of the run that it reads, of a test first the run that it tests; `$step` in the config stands
    for that run's folder. code: digest of the package's code that it uses, empty in older plans. key: digest of all
    that its results follow from: that code, the config, the files that it names, the parents' keys. max_steps: None
    of a test.
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
    """One setting at one seed: its step runs in order, and for each compared metric the run that writes it, None where
    the cell cannot have it."""

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
    """Where a search looks, by what, and how many trials it is to make; None in older plans."""

    objective: str
    direction: str
    ranges: dict[str, Range]
    trials: int | None = None


class Plan(Saved):
    """What is run, and what was asked. identity: digest of all that makes two sweeps the same one. files: of each file
    or folder that a step's config names a digest. looked: when they were looked at, in seconds. A search's plan has
    no cells: its trials are known once they have ended."""

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
        """Step run -> how many cells stand on it."""
        return Counter(name for cell in self.cells for name in set(cell.steps))


class Done(Saved):
    """A step whose process ended well. steps: optimiser steps, None of a test. parents: of each run that it started
    from or tested, and of those behind these, the optimiser steps behind it then. metrics: whether it left a
    metrics.json. reads: files of others, see lit_blip2.ablation.run.reads. Older ones have no parents and metrics."""

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
    """Of each run that a fit started from, and of those behind these, the optimiser steps behind it then."""

    model_config = ConfigDict(strict=True, frozen=True)


class Failure(Saved):
    """Why a step failed. key: that of the step run, in failed.json."""

    key: str | None = None
    step: Inside
    message: str
    log_tail: list[str]


class Reached(Saved):
    """How far a step run of a cell came, in optimiser steps. planned: that a fit was to make. made: by a fit, or by the
    run that a test tested. measured: behind the weights that those of its metrics are of which the cell is compared by.
    None where that is not known."""

    planned: Whole | None
    made: Whole | None
    measured: Whole | None


class Record(Saved):
    """What a cell came to. name: the cell's, or `trial=7`. worker: of a grid's cell. steps: of a trial, which no plan
    knew. keys, reached: of each of its step runs that has ended well. commit, dirty: of the code that ran it, as in a
    plan. Older records lack some of these."""

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
    """What came of one comparison that was expected: claim (in Markdown; in short the labels that differ) and verdict
    in words, and of which metric it is; difference, the ends of its interval and Holm's p where there are some."""

    claim: str
    short: str = ""
    metric: str = ""
    verdict: str
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None


class Found(Saved):
    """A sweep's report in short. cells: how many are planned; done: how many of them have ended well. warnings: in
    Markdown, which trainings ended at another step than planned, or were measured at another than their last. plot: the
    path of the one that shows most of what came of it; older ones name none."""

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
        """None where a metric was not finite."""
        return self.model_extra


class Metrics(RootModel[dict[str, Annotated[float | None, AfterValidator(finite)]]]):
    """metrics.json of a run. None where a metric is not finite."""

    model_config = ConfigDict(strict=True, frozen=True)


def is_of(record: Record, cell: Cell) -> bool:
    """Whether a record is the cell's own, and no copy of another's."""
    return record.name in (None, cell.name) and (record.labels, record.seed) == (cell.labels, cell.seed)


def setting_name(labels: Mapping[str, str]) -> str:
    """`itc=on,itm=off`."""
    return ",".join(f"{axis}={label}" for axis, label in labels.items()) or "base"
