"""A search: settings drawn from ranges by Optuna's TPE, each one trial, pruned by its validation figures.

A trial is planned beside a template, the chain with every range at its low end: what the ranges do not touch has the
template's key, and is run once for all trials.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.trial import Trial, TrialState

from lit_blip2.ablation.run.board import write_cell
from lit_blip2.ablation.run.folder import Folder, try_lock, validations, wait_lock, write_json
from lit_blip2.ablation.run.job import Job
from lit_blip2.ablation.run.plan import Plan, ask, plan_of, providers_of
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.step import StepError, metrics_of
from lit_blip2.ablation.spec.grid import Cell, Grid

WAIT_SECONDS = 1.0
STATES = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}


class PrunedError(Exception):
    """The pruner gave the trial up. value: the figure that it fell behind with."""

    def __init__(self, value: float):
        super().__init__(value)
        self.value = value


@dataclass(frozen=True)
class Space:
    """The resolved chain at the ranges' low ends; range -> step and path of its value in that step's config."""

    chain: dict[str, Any]
    places: dict[str, tuple[str, tuple[str, ...]]]


def make_space(grid: Grid, files: bool = True) -> Space:
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
    return Space(chains[0], places)


def _request(grid: Grid, step: str, high: dict[str, float]) -> dict[str, Any]:
    """The step with all ranges low but those in `high`."""
    values = {each.key: high.get(name, each.low) for name, each in grid.ranges.items()}
    overrides = grid.steps[step].overrides | {
        key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{step}.")
    }
    options = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]
    return {"command": "fit", "arguments": ["--config", grid.steps[step].target, *options]}


def _difference(low: Any, high: Any, key: str, path: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Where two configs differ, in one place."""
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return path
    found = [name for name in low if low[name] != high.get(name)]
    if len(found) != 1:
        raise ValueError(f"range of {key}: its ends give configs that differ in {found or 'nothing'}, not in one value")
    return _difference(low[found[0]], high[found[0]], key, (*path, found[0]))


def trial_plan(grid: Grid, space: Space, values: dict[str, float | int]) -> Plan:
    """The one cell of a trial, and its steps."""
    seed, chain = grid.seeds[0], copy.deepcopy(space.chain)
    for name, value in values.items():
        step, path = space.places[name]
        place = chain[step]["config"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
    providers = providers_of(grid, chain)
    trial, template = (
        Cell({name: word(values[name]) for name in values}, seed),
        Cell(dict.fromkeys(values, "*"), seed),
    )
    both = plan_of(grid, [(trial, chain, providers), (template, space.chain, providers)])
    cell = both.cells[0]
    return Plan([cell], {name: both.steps[name] for name in cell.steps}, both.identity, both.sources)


def word(value: float | int) -> str:
    """How a drawn value is called, and what it is: floats have six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def search(space: Space, job: Job) -> None:
    """Run trials until there are grid.trials, or the job is to stop."""
    while not job.stopping():
        with take_trial(job.grid, job.queue, job.folder) as trial:
            if trial is not None:
                name = f"trial={trial.number}"
                plan = trial_plan(job.grid, space, draw(job.grid, trial))
                job.tell(f"{name} ({plan.cells[0].name}): begins")
                job.tell(f"{name}: {_run_trial(plan, trial, job)}")
                continue
        if all(each.state.is_finished() for each in job.queue.trials()):
            return
        time.sleep(WAIT_SECONDS)


def draw(grid: Grid, trial: Trial) -> dict[str, float | int]:
    """The trial's value in each range: drawn at the first call, the same at every later one."""
    values = {}
    for name, each in grid.ranges.items():
        if isinstance(each.low, int) and isinstance(each.high, int):
            values[name] = trial.suggest_int(name, each.low, each.high, log=each.log)
        else:
            values[name] = float(word(trial.suggest_float(name, each.low, each.high, log=each.log)))
    return values


@contextmanager
def take_trial(grid: Grid, queue: Queue, folder: Folder) -> Iterator[Trial | None]:
    """A killed worker's trial, or a new one while there are fewer than grid.trials; held within the context."""
    with ExitStack() as held:
        with wait_lock(folder.lock("ask")):
            orphans = [each.number for each in queue.trials((TrialState.RUNNING,)) if not queue.is_held(each.number)]
            number = next(iter(orphans), None)
            if number is None and len(queue.trials()) < grid.trials:
                number = queue.study.ask().number
            taken = number is not None and held.enter_context(try_lock(queue.trial_lock(number))) is not None
        yield queue.trial(number) if taken else None


def _run_trial(plan: Plan, trial: Trial, job: Job) -> str:
    """Run the trial's steps, record how it ended, and say so in a word."""
    (cell,), objective, name = plan.cells, job.grid.metrics[0], f"trial={trial.number}"
    record: dict[str, Any] = {"state": "done", "metrics": {}, "error": None, "began": _now()}
    try:
        _run_steps(plan, trial, job, record["metrics"])
    except StepError as failure:
        record |= {"state": "failed", "error": failure.record}
    except PrunedError as pruned:
        record["state"], record["metrics"][objective] = "pruned", pruned.value
    value = None if record["state"] == "failed" else record["metrics"][objective]
    record |= {"labels": cell.labels, "seed": cell.seed, "steps": cell.steps, "ended": _now()}
    write_cell(job.folder, job.grid, replace(cell, name=name), record)
    write_json(job.folder.cell(name), record)
    job.queue.end(job.queue.trial_id(trial.number), STATES[record["state"]], value)
    return record["state"] + (f": {record['error']['message']}" if value is None else f", {objective} {value:.4f}")


def _run_steps(plan: Plan, trial: Trial, job: Job, metrics: dict[str, float]) -> None:
    """Run the trial's steps, and add what each wrote to `metrics`.

    Raises PrunedError, and StepError for a step that failed or left no finite figure of the objective: Optuna takes
    none that is not finite.
    """
    (cell,), objective = plan.cells, job.grid.metrics[0]
    guiding = cell.metrics[objective]
    for name in cell.steps:
        job.run(plan, name, *([_watch(trial, objective)] if name == guiding else []))
        metrics |= metrics_of(plan.steps[name], job.folder)
    if not _is_finite(metrics.get(objective)):
        message = f"ended well, and in its metrics.json {objective} is {metrics.get(objective, 'missing')}"
        raise StepError({"step": guiding, "message": message, "log_tail": []})


def _watch(trial: Trial, objective: str) -> Callable[[Path], None]:
    """Reports each new validation with a finite figure to the pruner. Raises PrunedError where it gives up."""
    seen: set[int] = set()

    def look(run_folder: Path) -> None:
        for point in validations(run_folder):
            if point["step"] not in seen and _is_finite(point.get(objective)):
                seen.add(point["step"])
                trial.report(point[objective], point["step"])
                if trial.should_prune():
                    raise PrunedError(point[objective])

    return look


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
