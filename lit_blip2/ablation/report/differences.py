"""What a setting changes: the keys of its resolved configs that differ from the control's, at the same seed.

Left out is what follows from a run's place alone: `trainer.logger`, and folders of the sweep's own runs (the run that a
step starts from differs in every cell, and is shown by that run's own keys).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_blip2.ablation.report.records import Cell, Step, Sweep

ABSENT = "(absent)"
IGNORED = ("trainer.logger",)


@dataclass(frozen=True)
class Difference:
    """step: kind and command, such as "stage1 fit". seeds: those at which it shows."""

    step: str
    key: str
    control: Any
    setting: Any
    seeds: tuple[int, ...]


def config_differences(sweep: Sweep, setting: str) -> list[Difference]:
    """Of a setting against the control, over the seeds that both are planned at."""
    settings = sweep.settings()
    control = {cell.seed: cell for cell in settings.get(sweep.control or "", [])}
    kinds = {step.folder.strip("/"): step.kind for step in sweep.steps.values()}
    found: dict[str, tuple[tuple, list[int]]] = {}
    for cell in settings.get(setting, []):
        if cell.seed in control:
            for row in _between(sweep, kinds, control[cell.seed], cell):
                found.setdefault(repr(row), (row, []))[1].append(cell.seed)
    return [Difference(*row, tuple(seeds)) for row, seeds in found.values()]


def flat_differences(control: Any, setting: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, control's value, setting's value) of every leaf that differs; where one side has a whole branch and
    the other none, the branch. Lists are leaves unless they hold objects."""
    if prefix in IGNORED:
        return
    if _is_branch(control) and _is_branch(setting):
        left, right = _children(control), _children(setting)
        for key in dict.fromkeys([*left, *right]):
            yield from flat_differences(left.get(key, ABSENT), right.get(key, ABSENT), f"{prefix}.{key}".lstrip("."))
    elif control != setting or isinstance(control, bool) != isinstance(setting, bool):  # True == 1
        yield prefix, control, setting


def _between(sweep: Sweep, kinds: Mapping[str, str], control: Cell, cell: Cell) -> Iterator[tuple[str, str, Any, Any]]:
    left, right = _by_kind(sweep, control), _by_kind(sweep, cell)
    for kind in dict.fromkeys([*left, *right]):
        if kind not in left or kind not in right:
            yield kind, "(the whole step)", *(ABSENT if kind not in side else "runs" for side in (left, right))
        elif left[kind].name != right[kind].name:
            configs = [_without_runs(kinds, side[kind].config) for side in (left, right)]
            for row in flat_differences(*configs):
                yield kind, *row


def _by_kind(sweep: Sweep, cell: Cell) -> dict[str, Step]:
    return {
        step.kind if step.kind == step.command else f"{step.kind} {step.command}": step for step in sweep.steps_of(cell)
    }


def _without_runs(kinds: Mapping[str, str], value: Any) -> Any:
    """Paths into runs of this sweep, replaced by which step's run it is. kinds: folder of a run -> its step."""
    if isinstance(value, Mapping):
        return {key: _without_runs(kinds, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_runs(kinds, each) for each in value]
    if isinstance(value, str) and (kind := _run_in(kinds, value)):
        return f"(run of {kind})"
    return value


def _run_in(kinds: Mapping[str, str], path: str) -> str | None:
    """The step whose run's folder is spelt by whole components of the path."""
    parts = path.strip("/").split("/")
    spans = itertools.combinations(range(len(parts) + 1), 2)
    return next((kinds[folder] for i, j in spans if (folder := "/".join(parts[i:j])) in kinds), None)


def _is_branch(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(each, Mapping) for each in value))


def _children(value: Mapping | list) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {str(i): each for i, each in enumerate(value)}
