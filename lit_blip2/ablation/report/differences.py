"""What a setting changes: the keys of its resolved configs that differ from the control's, at the same seed.

Keys that only follow from a run's place are left out: `trainer.logger`, and folders of the sweep's own runs (the run
that a step starts from differs in every cell, and is shown by that run's own keys).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.schema import Cell, StepRun

ABSENT = "(absent)"
IGNORED = ("trainer.logger",)


@dataclass(frozen=True)
class Difference:
    """step: with its command, such as "stage1 fit". seeds: those at which the key differs."""

    step: str
    key: str
    control: Any
    setting: Any
    seeds: tuple[int, ...]


def config_differences(sweep: Sweep, setting: str) -> list[Difference]:
    """Differences of a setting from the control, over the seeds at which both are planned."""
    control = {cell.seed: cell for cell in sweep.settings.get(sweep.control or "", [])}
    step_in = {run.folder.strip("/"): run.step for run in sweep.plan.steps.values()}
    seeds: dict[str, tuple[tuple, list[int]]] = {}
    for cell in sweep.settings.get(setting, []):
        if cell.seed in control:
            for leaf in _between(sweep, step_in, control[cell.seed], cell):
                seeds.setdefault(repr(leaf), (leaf, []))[1].append(cell.seed)
    return [Difference(*leaf, tuple(at)) for leaf, at in seeds.values()]


def flat_differences(control: Any, setting: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, control's value, setting's value) of every leaf that differs. A branch that only one side has counts
    as one leaf. Lists are leaves unless they hold objects."""
    if prefix in IGNORED:
        return
    if _is_branch(control) and _is_branch(setting):
        left, right = _children(control), _children(setting)
        for key in dict.fromkeys([*left, *right]):
            yield from flat_differences(left.get(key, ABSENT), right.get(key, ABSENT), f"{prefix}.{key}".lstrip("."))
    elif control != setting or isinstance(control, bool) != isinstance(setting, bool):  # True == 1
        yield prefix, control, setting


def _between(
    sweep: Sweep, step_in: Mapping[str, str], control: Cell, cell: Cell
) -> Iterator[tuple[str, str, Any, Any]]:
    """(step, key, control's value, setting's value) at one seed."""
    left, right = _by_step(sweep, control), _by_step(sweep, cell)
    for step in dict.fromkeys([*left, *right]):
        if step not in left or step not in right:
            yield step, "(the whole step)", *(ABSENT if step not in side else "runs" for side in (left, right))
        elif left[step].name != right[step].name:
            configs = [_without_runs(step_in, side[step].config) for side in (left, right)]
            for leaf in flat_differences(*configs):
                yield step, *leaf


def _by_step(sweep: Sweep, cell: Cell) -> dict[str, StepRun]:
    return {run.step if run.step == run.command else f"{run.step} {run.command}": run for run in sweep.steps_of(cell)}


def _without_runs(step_in: Mapping[str, str], value: Any) -> Any:
    """Replaces paths into runs of this sweep by the step of that run. step_in: folder of a run -> its step."""
    if isinstance(value, Mapping):
        return {key: _without_runs(step_in, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_runs(step_in, each) for each in value]
    if isinstance(value, str) and (step := _run_in(step_in, value)):
        return f"(run of {step})"
    return value


def _run_in(step_in: Mapping[str, str], path: str) -> str | None:
    """The step whose run's folder is part of the path, in whole components; None if there is none."""
    parts = path.strip("/").split("/")
    spans = itertools.combinations(range(len(parts) + 1), 2)
    return next((step_in[folder] for i, j in spans if (folder := "/".join(parts[i:j])) in step_in), None)


def _is_branch(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(each, Mapping) for each in value))


def _children(value: Mapping | list) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {str(i): each for i, each in enumerate(value)}
