"""From a grid to what must be run: each distinct step once, and for each cell which steps it stands on.

Two cells share a step if its resolved config, the files that the config names, the package's sources and the steps
before it are all equal. A step that no compared metric needs is not run at all.
"""

import copy
import dataclasses
import fnmatch
import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from lit_blip2.ablation.run import fingerprint
from lit_blip2.ablation.spec.grid import REFERENCE, Cell, Grid, run_name
from lit_blip2.ablation.spec.values import strings
from lit_blip2.config import arguments_of


@dataclass(frozen=True)
class StepRun:
    """One run of one step.

    name: `stage1/itc=on,seed=0`, of the labels on which all cells that share it agree; also its folder below runs/.
    parents: step -> name of the run that it stands on, of a test first the run that it tests; `$step` in the config
    stands for that run's folder.
    """

    name: str
    step: str
    command: str
    key: str
    folder: str
    parents: dict[str, str]
    config: dict[str, Any]
    max_steps: int | None


@dataclass(frozen=True)
class PlannedCell:
    """One cell: its step runs in order, and for each metric the run that writes it; None: it cannot have this one."""

    name: str
    labels: dict[str, str]
    seed: int
    steps: list[str]
    metrics: dict[str, str | None]


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep will run. identity: digest of all that makes two sweeps the same one."""

    cells: list[PlannedCell]
    steps: dict[str, StepRun]
    identity: str
    sources: str

    def uses(self) -> dict[str, int]:
        """Step run -> how many cells stand on it."""
        found = Counter(name for cell in self.cells for name in cell.steps)
        return {name: found[name] for name in self.steps}

    @property
    def wants_gpus(self) -> bool:
        """Whether any of its runs would use one."""
        return any(run.config.get("trainer", {}).get("accelerator") != "cpu" for run in self.steps.values())


@dataclass
class _Draft:
    """A step of one cell before it has a name."""

    step: str
    command: str
    key: str
    parents: dict[str, str]  # step -> key
    config: dict[str, Any]
    max_steps: int | None
    users: list[Cell] = dataclasses.field(default_factory=list)


def make_plan(grid: Grid, files: bool = True) -> Plan:
    """Resolve every cell's steps, check them, and find what they share.

    Raises ValueError with every step that the models or the parser refuse, and every metric that no cell can write.
    """
    settings = {run_name(cell.labels, 0): cell.labels for cell in grid.cells()}
    answers = resolved(grid, settings, files)
    chains = {name: {step: answers[name, step] for step in grid.steps} for name in settings}
    providers = {name: providers_of(grid, chain) for name, chain in chains.items()}
    if lost := [metric for metric in grid.metrics if not any(each[metric] for each in providers.values())]:
        known = sorted({name for chain in chains.values() for answer in chain.values() for name in answer["metrics"]})
        raise ValueError(f"metrics that no cell can write: {', '.join(lost)}. Its steps write {', '.join(known)}")
    check_providers(grid, providers)
    chain_of = [(cell, chains[run_name(cell.labels, 0)], providers[run_name(cell.labels, 0)]) for cell in grid.cells()]
    return plan_of(grid, chain_of)


def plan_of(grid: Grid, cells: list[tuple[Cell, dict[str, Any], dict[str, str | None]]]) -> Plan:
    """A plan of cells, each with its resolved steps and with metric -> step."""
    drafts: dict[str, _Draft] = {}
    drafted = [_draft_cell(grid, cell, chain, providers, drafts) for cell, chain, providers in cells]
    names = _names(drafts)
    steps = {names[key]: _named(draft, names) for key, draft in drafts.items()}
    planned = [
        PlannedCell(
            cell.name, cell.labels, cell.seed, [names[key] for key in keys], {m: names.get(k) for m, k in of.items()}
        )
        for cell, keys, of in drafted
    ]
    asked = [
        grid.metrics,
        grid.control,
        grid.direction,
        {name: dataclasses.asdict(r) for name, r in grid.ranges.items()},
    ]
    identity = _digest([asked, [[cell.name, [steps[name].key for name in cell.steps]] for cell in planned]])
    return Plan(planned, steps, identity, fingerprint.sources())


def arguments(grid: Grid, labels: dict[str, str], step: str) -> list[str]:
    """What a person would type behind `fit` or `test` for this step of this setting."""
    one = grid.steps[step]
    overrides = grid.overrides(labels, step)
    if one.command == "test":
        overrides = grid.overrides(labels, one.target) | overrides
    file = overrides.pop("fit", one.target if one.command == "fit" else grid.steps[one.target].target)
    return ["--config", file, *(f"--{key}={_text(value)}" for key, value in overrides.items())]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def resolved(
    grid: Grid, settings: dict[str, dict[str, str]], files: bool = True
) -> dict[tuple[str, str], dict[str, Any]]:
    """(setting, step) -> the answer of lit_blip2.resolve; equal requests are asked once."""
    wanted = {(name, step): (grid.steps[step].command, *arguments(grid, labels, step))
              for name, labels in settings.items() for step in grid.steps}  # fmt: skip
    requests = list(dict.fromkeys(wanted.values()))
    answers = dict(
        zip(requests, ask([{"command": each[0], "arguments": each[1:], "files": files} for each in requests]))
    )
    faults = {request: answer["error"] for request, answer in answers.items() if "error" in answer}
    if faults:
        first_user = {request: place for place, request in reversed(wanted.items())}
        lines = [f"  - {first_user[request][0].removesuffix(',seed=0')}, step {first_user[request][1]}: {fault}\n"
                 f"      {' '.join(request)}" for request, fault in faults.items()]  # fmt: skip
        raise ValueError("cells that cannot be run:\n" + "\n".join(lines))
    return {place: answers[request] for place, request in wanted.items()}


def check_providers(grid: Grid, providers: dict[str, dict[str, str | None]]) -> None:
    """Raises ValueError for a metric that a test writes in one setting, and only a fit's validation in another."""
    for metric in grid.metrics:
        written = [(each[metric], setting) for setting, each in providers.items() if each[metric] is not None]
        found = {grid.steps[step].command: (step, setting) for step, setting in written}
        if len(found) > 1:
            shown = ", ".join(f"{step} in {setting.removesuffix(',seed=0')}" for step, setting in found.values())
            raise ValueError(f"metric {metric} would come from {shown}: one is a test's, the other a validation's")


def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of lit_blip2.resolve, in one process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "lit_blip2.resolve"], input=json.dumps(requests), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"resolving the cells ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def providers_of(grid: Grid, chain: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    """Metric -> the last step that can write it."""
    return {
        metric: next(
            (step for step in reversed(grid.steps) if any(fnmatch.fnmatch(metric, p) for p in chain[step]["metrics"])),
            None,
        )
        for metric in grid.metrics
    }


def _draft_cell(
    grid: Grid,
    cell: Cell,
    chain: dict[str, dict[str, Any]],
    providers: dict[str, str | None],
    drafts: dict[str, _Draft],
) -> tuple[Cell, list[str], dict[str, str | None]]:
    """The cell, the keys of its steps in order, and metric -> key. Adds what is new to `drafts`."""
    needed: set[str] = set()
    for step in [step for step in providers.values() if step]:
        needed |= _with_parents(grid, chain, step)
    keys: dict[str, str] = {}
    for step in grid.steps:
        if step in needed:
            config = _with_seed(chain[step]["config"], cell.seed)
            parents = {parent: keys[parent] for parent in _parents(grid, chain, step)}
            key = _key(grid.steps[step].command, config, parents)
            command, steps = grid.steps[step].command, chain[step]["steps"]
            draft = drafts.setdefault(
                key, _Draft(step, command, key, parents, config, steps if command == "fit" else None)
            )
            draft.users.append(cell)
            keys[step] = key
    return cell, list(keys.values()), {metric: keys[step] if step else None for metric, step in providers.items()}


def _with_parents(grid: Grid, chain: dict[str, dict[str, Any]], step: str) -> set[str]:
    return {step}.union(*(_with_parents(grid, chain, parent) for parent in _parents(grid, chain, step)))


def _parents(grid: Grid, chain: dict[str, dict[str, Any]], step: str) -> list[str]:
    """Steps whose runs this one reads: the one that it tests, then those that its config refers to."""
    tested = [grid.steps[step].target] if grid.steps[step].command == "test" else []
    return tested + [
        text.removeprefix(REFERENCE) for text in sorted(strings(chain[step]["config"])) if text.startswith(REFERENCE)
    ]


def _with_seed(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """A deep copy with both seeds set: of training, and of the data's order."""
    config = copy.deepcopy(config)
    config["seed_everything"] = arguments_of(config, "data")["seed"] = seed
    return config


def _key(command: str, config: dict[str, Any], parents: dict[str, str]) -> str:
    trainer = {key: value for key, value in config["trainer"].items() if key != "logger"}
    return _digest([command, config | {"trainer": trainer}, parents, _files(json.dumps(config)), _sources()])


@cache
def _files(config: str) -> dict[str, str]:
    return {path: _of_path(path) for path in fingerprint.paths(json.loads(config))}


_of_path = cache(fingerprint.of_path)
_sources = cache(fingerprint.sources)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _names(drafts: dict[str, _Draft]) -> dict[str, str]:
    """Key -> name: the labels that all users agree on; two runs of one name get numbers behind it."""
    names: dict[str, str] = {}
    known: Counter[str] = Counter()
    for key, draft in drafts.items():
        labels = {
            a: label for a, label in draft.users[0].labels.items() if all(u.labels[a] == label for u in draft.users)
        }
        name = f"{draft.step}/{run_name(labels, draft.users[0].seed)}"
        known[name] += 1
        names[key] = f"{name}#{known[name]}" if known[name] > 1 else name
    return names


def _named(draft: _Draft, names: dict[str, str]) -> StepRun:
    name = names[draft.key]
    parents = {step: names[key] for step, key in draft.parents.items()}
    return StepRun(name, draft.step, draft.command, draft.key, f"runs/{name}", parents, draft.config, draft.max_steps)
