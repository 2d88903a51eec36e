"""A sweep's folder, read: the plan, what each cell came to, and what each step left behind.

    DIR/plan.json                what was asked; the cells of the grid and their steps, known beforehand
    DIR/cells/CELL.json          what a cell came to, once it has ended
    DIR/STEP FOLDER/done.json    time and memory of a step, once its process has ended well
    DIR/STEP FOLDER/validation.jsonl    a line for each validation of a step that trains

A cell is a setting (labels) at one seed; it is waiting, or running, while it has no file. A step may serve many cells.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

WAITING, DONE, FAILED, PRUNED = "waiting", "done", "failed", "pruned"
NOT_PLANNED, MISSING, NOT_FINITE = "n/a", "missing", "not finite"


class SweepError(ValueError):
    """What keeps a folder from being read: one line for each problem."""


@dataclass(frozen=True)
class Done:
    """done.json of a step. steps: optimiser steps, None for a test."""

    seconds: float | None
    steps: int | None
    peak_memory_gib: float | None
    attempts: int = 1


@dataclass(frozen=True)
class Step:
    """One process of the plan. kind is what it is in every cell, such as "stage1"; name says for which."""

    name: str
    kind: str
    command: str
    folder: str
    config: dict
    done: Done | None = None
    validation: list[dict[str, float]] = field(default_factory=list)  # finite figures only, beside "step"


@dataclass(frozen=True)
class Failure:
    step: str
    message: str
    log_tail: list[str]


@dataclass(frozen=True)
class Cell:
    """planned: the metrics this cell can have. metrics: those it has, finite ones only; the others are `odd`."""

    name: str
    labels: dict[str, str]
    seed: int | None
    steps: list[str]
    planned: frozenset[str]
    state: str = WAITING
    metrics: dict[str, float] = field(default_factory=dict)
    odd: frozenset[str] = frozenset()
    failure: Failure | None = None
    began: str | None = None
    ended: str | None = None

    @property
    def setting(self) -> str:
        """The name without the seed."""
        return setting_name(self.labels)

    def without(self, metric: str) -> str | None:
        """Why there is no figure; None if there is one."""
        if metric in self.metrics:
            return None
        if metric not in self.planned:
            return NOT_PLANNED
        if metric in self.odd:
            return NOT_FINITE
        return MISSING if self.state == DONE else self.state


@dataclass(frozen=True)
class Search:
    objective: str
    direction: str
    ranges: dict[str, dict]


@dataclass(frozen=True)
class Sweep:
    """A sweep as far as it has come. `about` is the plan, for what is only shown."""

    folder: Path
    name: str
    about: dict[str, Any]
    axes: dict[str, list[str]]
    metrics: list[str]
    control: str | None  # a setting
    compare: list[tuple[str, str]]  # pairs of settings
    cells: list[Cell]
    steps: dict[str, Step]
    search: Search | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def users(self) -> Counter[str]:
        """Step -> how many cells stand on it."""
        return Counter(name for cell in self.cells for name in set(cell.steps))

    def settings(self) -> dict[str, list[Cell]]:
        """The cells of each setting, in the plan's order."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.setting, []).append(cell)
        return found

    def count(self, state: str) -> int:
        return sum(cell.state == state for cell in self.cells)

    def steps_of(self, cell: Cell) -> list[Step]:
        return [self.steps[name] for name in cell.steps]


def setting_name(labels: Mapping[str, str]) -> str:
    return ",".join(f"{axis}={value}" for axis, value in labels.items()) or "base"


def read_sweep(folder: str | Path) -> Sweep:
    """A sweep's folder. SweepError, with all problems at once, if it is none or a file is damaged."""
    folder = Path(folder)
    if not (folder / "plan.json").is_file():
        raise SweepError(f"no plan.json in {str(folder)!r}: give the folder that `sweep --out` wrote")
    problems: list[str] = []
    plan = _load(folder / "plan.json", problems)
    problems += [] if problems else _wrong_keys("plan.json", plan, PLAN)
    problems += _wrong_keys("plan.json, search", plan["search"], SEARCH) if plan.get("search") else []
    if problems:
        raise SweepError("\n".join(problems))
    ended = {file.stem: _load(file, problems) for file in _in_order((folder / "cells").glob("*.json"))}
    ended = {name: entry for name, entry in ended.items() if entry}  # the others are problems already
    steps = {name: _step(folder, name, entry, problems) for name, entry in plan["steps"].items()}
    search = Search(*(plan["search"][key] for key in SEARCH)) if plan.get("search") else None
    planned = _trials(ended, plan, problems) if search else plan["cells"]
    cells = [_cell(entry, ended.get(entry.get("name")), problems) for entry in planned]
    problems += _unknown_steps(cells, steps) + ([] if search else _twins(cells))
    if problems:
        raise SweepError("\n".join(dict.fromkeys(problems)))
    return Sweep(
        folder=folder,
        name=plan["name"],
        about=plan,
        axes={axis: [str(value) for value in values] for axis, values in plan["axes"].items()},
        metrics=_metrics(plan),
        control=_control(plan, cells),
        compare=[(first, second) for first, second in plan.get("compare") or ()],
        cells=cells,
        steps=steps,
        search=search,
        notes=[
            f"cells/{name}.json belongs to no cell of the plan: left out."
            for name in ended
            if name not in {cell.name for cell in cells}
        ],
    )


PLAN = {"name": str, "axes": dict, "metrics": list, "cells": list, "steps": dict}
CELL = {"name": str, "labels": dict, "steps": list}
TRIAL = {"state": str, "labels": dict}
SEARCH = {"objective": str, "direction": str, "ranges": dict}
STEP = {"step": str, "command": str, "folder": str}
WAY_OUT = "remove it, and run the sweep again to have it made anew"


def _load(file: Path, problems: list[str]) -> dict:
    """Never empty, unless there is a problem."""
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        problems.append(f"{file} cannot be read as JSON ({error}): {WAY_OUT}")
        return {}
    if not isinstance(content, dict) or not content:
        problems.append(f"{file} holds {json.dumps(content)[:80]}, not an object with entries: {WAY_OUT}")
        return {}
    return content


def _wrong_keys(where: str, entry: Mapping, wanted: Mapping[str, type]) -> list[str]:
    return [
        f"{where}: {key!r} is {entry[key]!r}, not of type {kind.__name__}" if key in entry else f"{where}: no {key!r}"
        for key, kind in wanted.items()
        if not isinstance(entry.get(key), kind)
    ]


def _in_order(files: Iterable[Path]) -> list[Path]:
    """trial=2 before trial=10, and no file that is being written."""
    return sorted(
        (file for file in files if not file.name.startswith(".")), key=lambda file: (len(file.stem), file.stem)
    )


def _trials(ended: dict[str, dict], plan: dict, problems: list[str]) -> list[dict]:
    """A search has no planned cells: each that ended says itself what it was."""
    problems += [text for name, entry in ended.items() for text in _wrong_keys(f"cells/{name}.json", entry, TRIAL)]
    metrics = dict.fromkeys(_metrics(plan), "its own")
    return [
        {
            "name": name,
            "labels": entry.get("labels", {}),
            "seed": entry.get("seed"),
            "steps": [step for step in entry.get("steps") or [] if step in plan["steps"]],
            "metrics": metrics,
        }
        for name, entry in ended.items()
    ]


def _metrics(plan: dict) -> list[str]:
    """The compared metrics; of a search its objective too."""
    return list(dict.fromkeys([*plan["metrics"], *([plan["search"]["objective"]] if plan.get("search") else [])]))


def _cell(entry: dict, ended: dict | None, problems: list[str]) -> Cell:
    problems += (wrong := _wrong_keys(f"plan.json, cell {entry.get('name')!r}", entry, CELL))
    if wrong:
        return Cell("", {}, None, [], frozenset())
    writes = entry.get("metrics") or {}
    cell = Cell(
        name=entry["name"],
        labels={axis: str(value) for axis, value in entry["labels"].items()},
        seed=entry.get("seed"),
        steps=list(entry["steps"]),
        planned=frozenset(name for name, step in writes.items() if step is not None),
    )
    return cell if ended is None else _ended(cell, ended, problems)


def _ended(cell: Cell, entry: dict, problems: list[str]) -> Cell:
    where = f"cells/{cell.name}.json"
    if entry.get("state") not in (DONE, FAILED, PRUNED):
        problems.append(f"{where}: state {entry.get('state')!r} is none of {DONE}, {FAILED}, {PRUNED}: {WAY_OUT}")
    given = entry.get("metrics") or {}
    wrong = [name for name, value in given.items() if value is not None and not _is_number(value)]
    problems += [f"{where}: {name} is {given[name]!r}, not a number" for name in wrong]
    good = {name: float(v) for name, v in given.items() if _is_number(v) and math.isfinite(v)}
    error = entry.get("error")
    return replace(
        cell,
        state=entry.get("state", ""),
        metrics=good,
        odd=frozenset(given) - frozenset(good),
        failure=_failure(error) if error else None,
        began=entry.get("began"),
        ended=entry.get("ended"),
    )


def _failure(error: dict | str) -> Failure:
    if not isinstance(error, dict):
        return Failure("", str(error), [])
    tail = error.get("log_tail") or []
    lines = tail.splitlines() if isinstance(tail, str) else [str(line).rstrip("\n") for line in tail]
    return Failure(str(error.get("step") or ""), str(error.get("message") or ""), lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _step(folder: Path, name: str, entry: dict, problems: list[str]) -> Step | None:
    if not isinstance(entry, dict) or (wrong := _wrong_keys(f"plan.json, step {name!r}", entry, STEP)):
        problems += wrong if isinstance(entry, dict) else [f"plan.json, step {name!r}: {entry!r} is no object"]
        return None
    place = folder / entry["folder"]
    done = _done(place / "done.json", problems) if (place / "done.json").is_file() else None
    validation = _validation(place / "validation.jsonl", problems) if entry["command"] == "fit" else []
    return Step(name, entry["step"], entry["command"], entry["folder"], entry.get("config") or {}, done, validation)


def _done(file: Path, problems: list[str]) -> Done:
    entry = _load(file, problems)
    numbers = {name: entry.get(name) for name in ("seconds", "steps", "peak_memory_gib")}
    wrong = [name for name, value in numbers.items() if value is not None and not _is_number(value)]
    problems += [f"{file}: {name} is {numbers[name]!r}, not a number: {WAY_OUT}" for name in wrong]
    return Done(**numbers, attempts=entry.get("attempts") or 1)


def _validation(file: Path, problems: list[str]) -> list[dict[str, float]]:
    """A last line without its end is being written at this moment, and is left for the next report."""
    if not file.is_file():
        return []
    lines, records = file.read_text().split("\n")[:-1], []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            records.append({k: v for k, v in entry.items() if _is_number(v) and math.isfinite(v)})
        except (ValueError, AttributeError) as error:
            problems.append(f"{file}, line {number}, cannot be read as a JSON object ({error}): remove the line")
    return [record for record in records if "step" in record]


def _unknown_steps(cells: list[Cell], steps: Mapping[str, Step]) -> list[str]:
    return [
        f"plan.json, cell {cell.name!r}: step {name!r} is not among the plan's steps"
        for cell in cells
        for name in cell.steps
        if name not in steps
    ]


def _twins(cells: list[Cell]) -> list[str]:
    """Cells that no table could tell apart. (Trials of a search may meet at one point.)"""
    first: dict[tuple, str] = {}
    found = []
    for cell in cells:
        other = first.setdefault((cell.setting, cell.seed), cell.name)
        if other != cell.name:
            found.append(f"plan.json: cells {other!r} and {cell.name!r} have the same labels and seed")
    return found


def _control(plan: dict, cells: list[Cell]) -> str | None:
    """The control's name; its labels may be written in any order."""
    labels = {axis: str(value) for axis, value in (plan.get("control") or {}).items()}
    return next((cell.setting for cell in cells if cell.labels == labels), setting_name(labels)) if labels else None
