"""Reads a sweep's folder: the plan, how each cell ended, and what each step run left behind.

A cell is a setting (labels) at one seed; without a record it is waiting or running. A step run may serve many cells. A
search's plan holds no cells: each trial's record describes itself.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_blip2.ablation.folder import WAY_OUT, Folder, SweepError, read, read_validations
from lit_blip2.ablation.reached import reached
from lit_blip2.ablation.report.images import OneRun, read_images, together
from lit_blip2.ablation.report.remade import plan_of_records
from lit_blip2.ablation.report.statistics import Runs
from lit_blip2.ablation.schema import (
    DONE,
    WAITING,
    Cell,
    Done,
    Metrics,
    Plan,
    Reached,
    Record,
    Saved,
    Search,
    StepRun,
    Validation,
    is_finite,
    is_of,
    setting_name,
)
from lit_blip2.ablation.spec.grid import run_name
from lit_blip2.complaints import hint
from lit_blip2.config import Experiment
from lit_blip2.contents import DataError
from lit_blip2.evaluation.evaluated import Evaluated, evaluated
from lit_blip2.evaluation.items import FILE
from lit_blip2.evaluation.rules import Rules, of_metric, rules_of
from lit_blip2.links import check_links

NOT_PLANNED, MISSING, NOT_FINITE = "n/a", "missing", "not finite"


@dataclass(frozen=True)
class Sweep:
    """A sweep as far as it has come. records: by cell. done, ended_with (metrics), validations, images (results per
    image): by step run. strangers: files in cells/ that belong to no cell or trial."""

    plan: Plan
    cells: list[Cell]
    records: dict[str, Record]
    done: dict[str, Done]
    ended_with: dict[str, Metrics]
    validations: dict[str, list[Validation]]
    images: dict[str, dict[str, OneRun]]
    strangers: list[str] = field(default_factory=list)
    remade: bool = False  # the plan was rebuilt, not read

    @property
    def metrics(self) -> list[str]:
        """The compared metrics; for a search its objective too."""
        return list(dict.fromkeys(self.plan.metrics + ([self.plan.search.objective] if self.plan.search else [])))

    @cached_property
    def control(self) -> str | None:
        """The control's setting; its labels may be written in any order."""
        labels = self.plan.control
        same = (cell.setting for cell in self.cells if cell.labels == labels)
        return next(same, setting_name(labels)) if labels else None

    @cached_property
    def settings(self) -> dict[str, list[Cell]]:
        """The cells of each setting, in the plan's order."""
        cells: dict[str, list[Cell]] = {}
        for cell in self.cells:
            cells.setdefault(cell.setting, []).append(cell)
        return cells

    @cached_property
    def users(self) -> Counter[str]:
        """Step run -> number of cells that use it."""
        return self.plan.uses()

    @cached_property
    def reached(self) -> dict[str, Reached]:
        """Step run -> how far it came, for those that have ended well."""
        return reached(self.plan.steps, self.cells, self.done, self.ended_with)

    def told(self, cell: Cell) -> dict[str, Reached]:
        """The same for the cell's runs, from its record, which also holds its metrics; empty for older records."""
        return self.records[cell.name].reached if cell.name in self.records else {}

    @property
    def planned(self) -> int:
        """Number of planned cells, or trials."""
        trials = self.plan.search.trials if self.plan.search else None
        return max(len(self.cells), trials or 0)

    def steps_of(self, cell: Cell) -> list[StepRun]:
        return [self.plan.steps[name] for name in cell.steps]

    def state(self, cell: Cell) -> str:
        return self.records[cell.name].state if cell.name in self.records else WAITING

    def count(self, state: str) -> int:
        return sum(self.state(cell) == state for cell in self.cells)

    def value(self, cell: Cell, metric: str) -> float | None:
        """The cell's value of a metric; None if there is none, or it is not finite."""
        value = self.records[cell.name].metrics.get(metric) if cell.name in self.records else None
        return value if is_finite(value) else None

    def runs(self, cells: Sequence[Cell], metric: str) -> Runs:
        """The values of one setting's cells, and their results per image, if known."""
        values = {cell.seed: value for cell in cells if (value := self.value(cell, metric)) is not None}
        of_runs = [self.images.get(self._writer(cell, metric) or "", {}) for cell in cells]
        return Runs(values, together([each[metric] for each in of_runs if metric in each]))

    def validated(self, run: str, metric: str) -> dict[int, float]:
        """Step -> finite value. A resumed run may validate a step twice: the later one counts."""
        points = self.validations.get(run, [])
        last = {point.step: point.metrics[metric] for point in points if metric in point.metrics}
        return {step: value for step, value in last.items() if is_finite(value)}

    def validated_at(self, cell: Cell, metric: str, step: int) -> float | None:
        """The value at this step, from the cell's last training that validates the metric; None if there is none."""
        found = [each for run in cell.steps if (each := self.validated(run, metric))]
        return found[-1].get(step) if found else None

    def evaluated(self, cell: Cell, metric: str) -> Evaluated | None:
        """What the cell's value was measured on; None if it has no value, or its run does not say."""
        if (writer := self._writer(cell, metric)) is None:
            return None
        return evaluated(self.plan.steps[writer].command, self.ended_with[writer].root, metric)

    def rules(self, cell: Cell, metric: str) -> Rules:
        """The evaluation rules of the cell's value; empty if it has no value."""
        if (writer := self._writer(cell, metric)) is None:
            return {}
        step = self.plan.steps[writer]
        return of_metric(rules_of(Experiment(step.config, writer), step.command), metric)

    def _writer(self, cell: Cell, metric: str) -> str | None:
        """The step run that the cell's value comes from; None if there is no value."""
        if self.value(cell, metric) is None:
            return None
        runs = [name for name in [cell.metrics.get(metric), *reversed(cell.steps)] if name in self.ended_with]
        return next((name for name in runs if metric in self.ended_with[name].root), None)

    def without(self, cell: Cell, metric: str) -> str | None:
        """Why the cell has no value; None if it has one."""
        if self.value(cell, metric) is not None:
            return None
        if cell.metrics.get(metric) is None:
            return NOT_PLANNED
        if cell.name in self.records and metric in self.records[cell.name].metrics:
            return NOT_FINITE
        return MISSING if self.state(cell) == DONE else self.state(cell)


def read_sweep(root: str | Path) -> Sweep:
    """Read a sweep's folder, or one with the records of its cells alone. Raises SweepError, with all problems at once,
    if it is no such folder or a file is damaged, and DataError if a link leads out of it."""
    folder, problems = Folder(root), []
    if not folder.root.is_dir():
        beside = [each.name for each in folder.root.parent.glob("*/")]
        raise SweepError(f"no folder {str(root)!r}{hint(folder.root.name, beside)}")
    check_links(folder.root)
    plan = read(folder.plan, Plan)
    records = _read_all({file.stem: file for file in folder.cells()}, Record, problems)
    if (remade := plan is None) and (plan := plan_of_records(folder.root, records)) is None:
        raise SweepError(f"no plan.json in {str(root)!r}: give the folder that `sweep --out` wrote")
    done = _read_all({name: folder.done(name) for name in plan.steps}, Done, problems)
    ended_with = _read_all({name: folder.metrics(name) for name in done}, Metrics, problems)
    validations = {}
    for name in [name for name, run in plan.steps.items() if run.command == "fit"]:
        validations[name], faults = read_validations(folder.validations(name))
        problems += faults
    images = _read_images(folder, plan, ended_with, problems)
    cells = plan.cells
    if plan.search:
        cells = [_trial(plan, *each) for each in records.items() if _is_trial(plan.search, *each)]
    own = {cell.name: records[cell.name] for cell in cells if cell.name in records}
    problems += _of_others(plan, own, done) + _copied(cells, own) + _unknown_steps(plan)
    problems += _no_numbers(plan, cells) if plan.search else _twins(cells)
    if problems:
        raise SweepError("\n".join(dict.fromkeys(problems)))
    strangers = [name for name in records if name not in own]
    return Sweep(plan, cells, own, done, ended_with, validations, images, strangers, remade)


def _read_all(files: dict[str, Path], kind: type[Saved], problems: list[str]) -> dict[str, Any]:
    """Contents of the files that exist and can be read. What is wrong with the others goes to `problems`."""
    contents = {}
    for name, file in files.items():
        try:
            contents[name] = read(file, kind)
        except SweepError as error:
            problems += str(error).splitlines()
    return {name: content for name, content in contents.items() if content is not None}


def _read_images(
    folder: Folder, plan: Plan, ended_with: dict[str, Metrics], problems: list[str]
) -> dict[str, dict[str, OneRun]]:
    """The compared metrics of each test, split by image. What is wrong with a file goes to `problems`."""
    found = {}
    for name in [name for name in ended_with if plan.steps[name].command == "test"]:
        recorded = {metric: ended_with[name].root.get(metric) for metric in plan.metrics}
        try:
            found[name] = read_images(folder.run(name) / FILE, recorded)
        except DataError as error:
            problems += str(error).splitlines()
    return found


def _trial(plan: Plan, name: str, record: Record) -> Cell:
    """A trial that has ended, as a cell that can have every metric."""
    metrics = dict.fromkeys([*plan.metrics, plan.search.objective], name)
    steps = [step for step in record.steps if step in plan.steps]
    return Cell(name=name, labels=record.labels, seed=record.seed, steps=steps, metrics=metrics)


def _is_trial(search: Search, name: str, record: Record) -> bool:
    """Whether a record is a trial's. An older record holds no name, and its number must be one of the search's."""
    number = re.fullmatch(r"trial=(0|[1-9]\d*)", name)
    return bool(number) and (record.name is not None or int(number[1]) < (search.trials or math.inf))


def _copied(cells: list[Cell], records: dict[str, Record]) -> list[str]:
    """Records of another cell under a cell's name."""
    found = [(cell, records[cell.name]) for cell in cells if cell.name in records]
    return [
        f"cells/{cell.name}.json is the record of {record.name or run_name(record.labels, record.seed)}: {WAY_OUT}"
        for cell, record in found
        if not is_of(record, cell)
    ]


def _of_others(plan: Plan, records: dict[str, Record], done: dict[str, Done]) -> list[str]:
    """Records of other settings, data or code than the plan's: one table must not hold both."""
    keys = {name: run.key for name, run in plan.steps.items()}
    files = [(f"cells/{cell}.json", name, key) for cell, each in records.items() for name, key in each.keys.items()]
    files += [(f"runs/{name}/done.json", name, each.key) for name, each in done.items()]
    return [
        f"{file}: {name} is of other settings, data or code than plan.json says: {WAY_OUT}"
        for file, name, key in files
        if keys.get(name, key) != key
    ]


def _unknown_steps(plan: Plan) -> list[str]:
    return [
        f"plan.json, cell {cell.name!r}: step {name!r} is not among the plan's steps"
        for cell in plan.cells
        for name in cell.steps
        if name not in plan.steps
    ]


def _no_numbers(plan: Plan, trials: list[Cell]) -> list[str]:
    """Trials of a search whose label on a range is no number."""
    return [
        f"cells/{trial.name}.json: label {name} is {trial.labels[name]!r}, where a number is wanted: {WAY_OUT}"
        for trial in trials
        for name in plan.search.ranges.keys() & trial.labels.keys()
        if not is_number(trial.labels[name])
    ]


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return is_finite(float(text))
    except ValueError:
        return False


def _twins(cells: list[Cell]) -> list[str]:
    """Cells that no table could tell apart. (Trials of a search may meet at one point.)"""
    first: dict[tuple, str] = {}
    problems = []
    for cell in cells:
        other = first.setdefault((cell.setting, cell.seed), cell.name)
        if other != cell.name:
            problems.append(f"plan.json: cells {other!r} and {cell.name!r} have the same labels and seed")
    return problems
