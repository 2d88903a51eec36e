"""A sweep's folder: what its files are called, and how they are written and read.

plan.json                      Plan: what is run, and what was asked
cells/<cell>.json              Record: what a cell came to, once it has ended
runs/<step>/<labels>/          a run of an ordinary command, and in it
    done.json or failed.json   Done or Failure, once it has ended
    metrics.json               Metrics: what it ended with
    parents.json               of a fit that starts from others: Parents
    validation.jsonl           of a run that trains: a Validation a line
    items.npz                  of a run that tests: its metrics taken apart, see lit_blip2.evaluation.items
before/<number>/<step>/<labels>/   files of an attempt that was started over: kept, never read, may be removed
copying/                       a run of another sweep while it is being copied
configs/, locks/               the resolved YAML of each step run, and a lock for each step run and cell
outcome.json                   Found: the report in short, for the table of several sweeps
study.db                       the queue, unless --storage names another
tensorboard/<cell>/            one row of the HParams table, and the cell's curves
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lit_blip2.ablation.schema import STATES, Saved, Validation
from lit_blip2.contents import DataError, check_regular
from lit_blip2.whole_files import written_whole

WAY_OUT = "remove it, and run the sweep again to have it made anew"
MOST_BYTES = 1 << 28  # the largest file that is read
SHOWN = 80  # characters of a value that is wrong


class SweepError(DataError):
    """A sweep's files cannot be read; one line for each problem."""


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
        """Records of the cells that have ended, trial=2 before trial=10. Files that are being written are left out."""
        files = [file for file in self.root.glob("cells/*.json") if not file.name.startswith(".")]
        return sorted(files, key=lambda file: (len(file.stem), file.stem))

    def run(self, name: str) -> Path:
        """The folder of a step run, `stage1/itc=on,seed=0`."""
        return self.root / "runs" / name

    def before(self, name: str, number: int) -> Path:
        """Where a step run's files lie that were set aside for the first, the second ... time."""
        return self.root / "before" / str(number) / name

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.yaml"

    def done(self, name: str) -> Path:
        return self.run(name) / "done.json"

    def failed(self, name: str) -> Path:
        return self.run(name) / "failed.json"

    def parents(self, name: str) -> Path:
        return self.run(name) / "parents.json"

    def metrics(self, name: str) -> Path:
        return self.run(name) / "metrics.json"

    def validations(self, name: str) -> Path:
        return self.run(name) / "validation.jsonl"

    @property
    def outcome(self) -> Path:
        return self.root / "outcome.json"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"


def write(file: Path, saved: Saved) -> None:
    """Write a file whole, so that another process never reads half of it. Fields that were not set in `saved` are left
    out."""
    with written_whole(file) as part:
        part.write_text(saved.model_dump_json(indent=1, exclude_unset=True) + "\n", encoding="utf-8")


def read(file: Path, kind: type[Kind]) -> Kind | None:
    """A file's contents; None if there is no such file. Raises SweepError with everything wrong in a damaged one."""
    check_regular(file)
    try:
        return kind.model_validate_json(_bytes(file))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise SweepError("\n".join(f"{file}{each}: {WAY_OUT}" for each in _faults(error))) from error


def read_validations(file: Path) -> tuple[list[Validation], list[str]]:
    """The lines of a validation.jsonl that can be read, and what is wrong with the others.

    A last line without its end is left out: it is still being written, or its process was killed while writing it.
    """
    check_regular(file)
    points, faults = [], []
    lines = _bytes(file).split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            points.append(Validation.model_validate_json(line))
        except ValidationError as error:
            faults += [f"{file}, line {number}{each}: remove the line" for each in _faults(error)]
    return points, faults


def _bytes(file: Path) -> bytes:
    """A file's bytes. Raises SweepError for a file larger than any that a sweep writes."""
    if (size := file.stat().st_size) > MOST_BYTES:
        raise SweepError(f"{file} has {size:,} bytes, more than {MOST_BYTES:,}: {WAY_OUT}")
    return file.read_bytes()


def _faults(error: ValidationError) -> Iterator[str]:
    """Each problem of the error in this project's words, to follow a file's name."""
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
