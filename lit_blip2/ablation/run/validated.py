"""Checks expectations against the resolved trainings: is the metric validated at the step that they name?"""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

from lit_blip2.ablation.schema import setting_name
from lit_blip2.ablation.spec.grid import Grid, run_name
from lit_blip2.ablation.spec.parsing import unknown

Answers = Mapping[str, Mapping[str, Any]]  # step -> what lit_blip2.resolve says of it
SHOWN = 12  # steps of a training


def check_expected(grid: Grid, chains: Mapping[str, Answers], providers: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError for each metric that a setting's cells cannot write, or that none of its trainings validates,
    and for each step without a validation in the last training that validates the metric. chains, providers: by
    setting, named as at seed 0."""
    asked = [each for each in grid.expected if each.at is not None]
    sides = [(each.metric, each.at, labels) for each in asked for labels in (each.better, each.than)]
    problems = [line for metric, at, labels in sides for line in _problems(grid, chains, metric, at, labels)]
    ended = [(each.metric, labels) for each in grid.expected if each.at is None for labels in (each.better, each.than)]
    problems += [
        f"expect, {setting_name(labels)}: its cells cannot have {metric}"
        for metric, labels in ended
        if providers.get(run_name(labels, 0), {metric: ""})[metric] is None
    ]
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))


def _problems(grid: Grid, chains: Mapping[str, Answers], metric: str, at: int, labels: dict[str, str]) -> Iterator[str]:
    chain, where = chains[run_name(labels, 0)], f"expect at {at}, {setting_name(labels)}:"
    fits = [step for step in grid.steps if grid.steps[step].command == "fit"]
    names = {step: chain[step]["metrics"] for step in fits}
    if not (writers := [step for step in fits if any(fnmatch.fnmatch(metric, each) for each in names[step])]):
        yield unknown(
            f"{where} of what is validated, metric", metric, {name for each in names.values() for name in each}
        )
        return
    step = writers[-1]
    steps = _validations(chain[step]["config"]["trainer"], chain[step]["steps"])
    if steps is not None and at not in steps:
        told = ", ".join(map(str, steps[:SHOWN])) + (" and so on" if len(steps) > SHOWN else "")
        yield f"{where} {step} is not validated at this step, but at {told or 'none'}"


def _validations(trainer: Mapping[str, Any], max_steps: int) -> range | None:
    """Optimiser steps with a validation; None if they depend on the data or the clock."""
    interval, accumulate = trainer.get("val_check_interval"), trainer.get("accumulate_grad_batches") or 1
    if not isinstance(interval, int) or trainer.get("check_val_every_n_epoch") is not None or interval % accumulate:
        return None
    return range(interval // accumulate, max_steps + 1, interval // accumulate)
