"""Finds the runs that cells share: each distinct step is run once, and each cell lists the step runs that it uses.

Two cells share a step if its resolved config, the files that the config names, the package's code that it uses, and the
steps before it are all equal. A step that no compared metric needs is not run.
"""

import copy
import hashlib
import json
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from lit_blip2.ablation.run import fingerprint
from lit_blip2.ablation.run.code import code_digest
from lit_blip2.ablation.schema import Cell, Plan, Search, StepRun, setting_name
from lit_blip2.ablation.spec.grid import Grid, Point, run_name
from lit_blip2.ablation.spec.step import REFERENCE
from lit_blip2.config import arguments_of, strings
from lit_blip2.runs import without_bars
from lit_blip2.sources import sources


class Chain(NamedTuple):
    """A point of the grid with its resolved steps, and for each compared metric the step that writes it."""

    point: Point
    answers: dict[str, dict[str, Any]]  # step -> what lit_blip2.resolve says of it
    providers: dict[str, str | None]


@dataclass
class _Draft:
    """A step run before it has a name, which depends on the cells that use it."""

    step: str
    command: str
    parents: dict[str, str]  # step -> key
    config: dict[str, Any]
    max_steps: int | None
    code: str
    users: list[Chain] = field(default_factory=list)


def plan_of(grid: Grid, chains: list[Chain], known: Collection[str] | None = None) -> Plan:
    """The plan of these cells. known: files that the configs named when the sweep began; a file that has appeared since
    is an output, such as a log that a callback writes."""
    drafts: dict[str, _Draft] = {}
    keys = [_draft(grid, chain, drafts, known) for chain in chains]
    names = _names(drafts)
    cells = [_cell(chain, of, names) for chain, of in zip(chains, keys)]
    ranges = {name: each.model_dump() for name, each in grid.ranges.items()}
    asked = [grid.metrics, grid.control, grid.direction, ranges]
    return Plan(
        name=grid.name,
        question=grid.question,
        expect=grid.expect.text,
        expected=grid.expected,
        compare=[tuple(setting_name(grid.setting(each)) for each in pair) for pair in grid.compare],
        left_out=grid.left_out + _idle(grid, drafts),
        axes={axis: list(labels) for axis, labels in grid.axes.items()},
        seeds=grid.seeds,
        metrics=grid.metrics,
        control=grid.control,
        identity=_digest([asked, [[cell.name, list(of.values())] for cell, of in zip(cells, keys)]]),
        sources=sources(),
        looked=time.time(),
        files={name: each for draft in drafts.values() for name, each in _files(draft.config, known).items()},
        cells=cells,
        steps={names[key]: _step_run(key, draft, names) for key, draft in drafts.items()},
        **_search(grid),
    )


def _idle(grid: Grid, drafts: dict[str, _Draft]) -> list[str]:
    """A line for each step that no cell runs."""
    run = {draft.step for draft in drafts.values()}
    return [
        f"step {step}: no metric that is compared is of it, so no cell runs it"
        for step in grid.steps
        if step not in run
    ]


def _search(grid: Grid) -> dict[str, Search]:
    if not grid.ranges:
        return {}
    return {
        "search": Search(objective=grid.metrics[0], direction=grid.direction, ranges=grid.ranges, trials=grid.trials)
    }


def _draft(grid: Grid, chain: Chain, drafts: dict[str, _Draft], known: Collection[str] | None) -> dict[str, str]:
    """Step -> key, for the steps of the chain that some metric needs. Adds new ones to `drafts`."""
    parents = {step: _parents(grid, chain, step) for step in grid.steps}
    needed = {step for step in chain.providers.values() if step}
    for step in reversed(grid.steps):  # a parent comes before its step
        needed |= set(parents[step]) if step in needed else set()
    keys: dict[str, str] = {}
    for step in [step for step in grid.steps if step in needed]:
        command, config = grid.steps[step].command, _with_seed(chain.answers[step]["config"], chain.point.seed)
        of_parents = {parent: keys[parent] for parent in parents[step]}
        code = code_digest(_what_counts(config))
        keys[step] = step_key(command, config, of_parents, _files(config, known), code)
        steps = chain.answers[step]["steps"] if command == "fit" else None
        drafts.setdefault(keys[step], _Draft(step, command, of_parents, config, steps, code)).users.append(chain)
    return keys


def _parents(grid: Grid, chain: Chain, step: str) -> list[str]:
    """Steps whose runs this one reads: the one that it tests, then those that its config refers to."""
    tested = [grid.steps[step].test] if grid.steps[step].test else []
    named = sorted(strings(chain.answers[step]["config"]))
    return tested + [text.removeprefix(REFERENCE) for text in named if text.startswith(REFERENCE)]


def _with_seed(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """A deep copy with both seeds set: of training, and of the data's order."""
    config = copy.deepcopy(config)
    config["seed_everything"] = arguments_of(config, "data")["seed"] = seed
    return config


def step_key(command: str, config: dict[str, Any], parents: dict[str, str], files: dict[str, str], code: str) -> str:
    """Digest of what a step's results depend on, which is not where it logs, nor what it shows. parents: step -> key.
    files: name -> digest."""
    return _digest([command, _what_counts(config), parents, files, code])


def _what_counts(config: dict[str, Any]) -> dict[str, Any]:
    """The config without settings that change no number: where a run logs, and what it shows."""
    trainer = {key: value for key, value in config["trainer"].items() if key != "logger"}
    return config | {"trainer": trainer | {"callbacks": without_bars(trainer.get("callbacks"))}}


def _files(config: dict[str, Any], known: Collection[str] | None) -> dict[str, str]:
    """File or folder that a config names -> digest."""
    return {path: _of_path(path) for path in _paths(json.dumps(config)) if known is None or path in known}


@cache
def _paths(config: str) -> list[str]:
    return fingerprint.paths(json.loads(config))


_of_path = cache(fingerprint.of_path)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _names(drafts: dict[str, _Draft]) -> dict[str, str]:
    """Key -> name, from the labels on which all users agree. Further runs of the same name get a number behind it."""
    names: dict[str, str] = {}
    known: Counter[str] = Counter()
    for key, draft in drafts.items():
        first, *others = [user.point for user in draft.users]
        labels = {a: label for a, label in first.labels.items() if all(each.labels[a] == label for each in others)}
        name = f"{draft.step}/{run_name(labels, first.seed)}"
        known[name] += 1
        names[key] = f"{name}#{known[name]}" if known[name] > 1 else name
    return names


def _step_run(key: str, draft: _Draft, names: dict[str, str]) -> StepRun:
    return StepRun(
        name=names[key],
        step=draft.step,
        command=draft.command,
        key=key,
        code=draft.code,
        folder=f"runs/{names[key]}",
        parents={step: names[parent] for step, parent in draft.parents.items()},
        config=draft.config,
        max_steps=draft.max_steps,
    )


def _cell(chain: Chain, keys: dict[str, str], names: dict[str, str]) -> Cell:
    runs = {step: names[key] for step, key in keys.items()}
    metrics = {metric: runs[step] if step else None for metric, step in chain.providers.items()}
    point = chain.point
    return Cell(name=point.name, labels=point.labels, seed=point.seed, steps=list(runs.values()), metrics=metrics)
