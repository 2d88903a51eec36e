"""The chain of a search, resolved once, with the places of its ranges' values.

A trial is planned together with a template, which is the chain with every range at its low end. A step that no range
touches has the template's key, and is run once for all trials.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lit_blip2.ablation.run.plan import ask, providers_of
from lit_blip2.ablation.run.sharing import Chain, plan_of
from lit_blip2.ablation.schema import Plan
from lit_blip2.ablation.spec.grid import Grid, Point


@dataclass(frozen=True)
class Space:
    """answers: the resolved chain at the ranges' low ends. places: range -> step, and path of its value in that step's
    config. known: see `plan_of`."""

    answers: dict[str, dict[str, Any]]
    places: dict[str, tuple[str, tuple[str, ...]]]
    known: Collection[str] | None = None


def make_space(grid: Grid, files: bool = True, known: Collection[str] | None = None) -> Space:
    """Resolve and check the chain with each range at both ends. Raises ValueError with what the models refuse."""
    ends = [{}, *({name: each.high} for name, each in grid.ranges.items())]
    requests = [_request(grid, step, high) | {"files": files} for high in ends for step in grid.steps]
    answers = iter(ask(requests))
    chains = [{step: next(answers) for step in grid.steps} for _ in ends]
    faults = {answer["error"] for chain in chains for answer in chain.values() if "error" in answer}
    if faults:
        raise ValueError(
            "a range has an end that cannot be run:\n" + "\n".join(f"  - {each}" for each in sorted(faults))
        )
    if not providers_of(grid, chains[0])[grid.metrics[0]]:
        raise ValueError(f"no step can write {grid.metrics[0]!r}, by which the search is to be guided")
    places = {}
    for (name, each), chain in zip(grid.ranges.items(), chains[1:]):
        step = each.key.partition(".")[0]
        places[name] = step, _difference(chains[0][step]["config"], chain[step]["config"], each.key)
    return Space(chains[0], places, known)


def _request(grid: Grid, step: str, high: dict[str, float]) -> dict[str, Any]:
    """The request for a step with all ranges at their low ends but those in `high`."""
    values = {each.key: high.get(name, each.low) for name, each in grid.ranges.items()}
    return {"command": "fit", "arguments": grid.arguments({}, step, values)}


def _difference(low: Any, high: Any, key: str, path: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The path of the one value in which two configs differ. Raises ValueError if that is not one."""
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return path
    differing = [name for name in low if low[name] != high.get(name)]
    if len(differing) != 1:
        what = f"differ in {differing or 'nothing'}, not in one value"
        raise ValueError(f"range of {key}: its ends give configs that {what}")
    return _difference(low[differing[0]], high[differing[0]], key, (*path, differing[0]))


def trial_plan(grid: Grid, space: Space, values: dict[str, float | int]) -> Plan:
    """The plan of a trial: its one cell, and that cell's steps."""
    seed, answers = grid.seeds[0], copy.deepcopy(space.answers)
    for name, value in values.items():
        step, path = space.places[name]
        place = answers[step]["config"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
    providers = providers_of(grid, answers)
    trial = Chain(Point({name: word(value) for name, value in values.items()}, seed), answers, providers)
    template = Chain(Point(dict.fromkeys(values, "*"), seed), space.answers, providers)
    both = plan_of(grid, [trial, template], space.known)
    cell = both.cells[0]
    return both.model_copy(update={"cells": [cell], "steps": {name: both.steps[name] for name in cell.steps}})


def word(value: float | int) -> str:
    """A drawn value as a label, which is its value too: a float has six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
