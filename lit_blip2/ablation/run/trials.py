"""A worker on a search: it draws settings by Optuna's TPE. Each is a trial, pruned by its validation metrics."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import Trial, TrialState

from lit_blip2.ablation.folder import Folder, read_validations, write
from lit_blip2.ablation.run.locks import is_locked, try_lock, wait_lock
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.space import Space, trial_plan, word
from lit_blip2.ablation.run.step import StepError
from lit_blip2.ablation.run.tensorboard import write_cell
from lit_blip2.ablation.run.worker import Worker
from lit_blip2.ablation.schema import DONE, FAILED, PRUNED, Failure, Plan, Record, is_finite
from lit_blip2.ablation.spec.grid import Grid

WAIT_SECONDS = 1.0
STARTUP_TRIALS = 4  # that end before any is pruned


class PrunedError(Exception):
    """The pruner stopped the trial. value: the metric with which it fell behind."""

    def __init__(self, value: float):
        super().__init__(value)
        self.value = value


def search(space: Space, worker: Worker) -> None:
    """Run trials until there are grid.trials, or the worker must stop."""
    while not worker.stopping():
        with take_trial(worker.grid, worker.queue, worker.folder) as trial:
            if trial is not None:
                name = f"trial={trial.number}"
                plan = trial_plan(worker.grid, space, draw(worker.grid, trial))
                worker.tell(f"{name} ({plan.cells[0].name}): begins")
                worker.tell(f"{name}: {_run_trial(plan, trial, worker)}")
                continue
        if all(each.state.is_finished() for each in worker.queue.trials()):
            return
        time.sleep(WAIT_SECONDS)


@contextmanager
def take_trial(grid: Grid, queue: Queue, folder: Folder) -> Iterator[Trial | None]:
    """A killed worker's trial, or a new one while there are fewer than grid.trials; else None. It is locked within the
    context."""
    with ExitStack() as held:
        with wait_lock(folder.lock("ask")):
            running = [each.number for each in queue.trials((TrialState.RUNNING,))]
            number = next((each for each in running if not is_locked(trial_lock(folder, each))), None)
            if number is None and len(queue.trials()) < grid.trials:
                number = queue.study.ask().number
            taken = number is not None and held.enter_context(try_lock(trial_lock(folder, number))) is not None
        yield trial_of(grid, queue, number) if taken else None


def trial_lock(folder: Folder, number: int) -> Path:
    return folder.lock(f"cells/trial={number}")


def trial_of(grid: Grid, queue: Queue, number: int) -> Trial:
    """A trial to draw from, to report to and to prune.

    What it draws depends on the grid's seed, its number and the trials that ended before. With the same sampler seed in
    every process, all workers, and those that come after them, would draw the same points.
    """
    seed = int(np.random.SeedSequence([grid.seeds[0], number]).generate_state(1)[0])
    study = optuna.load_study(
        study_name=queue.study.study_name,
        storage=queue.storage,
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
    )
    study.get_trials(deepcopy=False)  # else the study's cache lacks other workers' trials
    return Trial(study, queue.trial_id(number))


def draw(grid: Grid, trial: Trial) -> dict[str, float | int]:
    """The trial's value in each range: drawn at the first call, the same at every later one."""
    values = {}
    for name, each in grid.ranges.items():
        if isinstance(each.low, int) and isinstance(each.high, int):
            values[name] = trial.suggest_int(name, each.low, each.high, log=each.log)
        else:
            values[name] = float(word(trial.suggest_float(name, each.low, each.high, log=each.log)))
    return values


def _run_trial(plan: Plan, trial: Trial, worker: Worker) -> str:
    """Run the trial's steps, record how it ended, and say so in a word."""
    (cell,), objective, began = plan.cells, worker.grid.metrics[0], _now()
    state, metrics, error = _run_steps(plan, trial, worker)
    name = f"trial={trial.number}"
    write_cell(worker.folder, worker.grid, cell.model_copy(update={"name": name}), state, metrics)
    record = Record(
        name=name,
        state=state,
        metrics=metrics,
        error=error,
        labels=cell.labels,
        seed=cell.seed,
        steps=cell.steps,
        keys={name: plan.steps[name].key for name in cell.steps},
        reached=worker.reached(plan, cell),
        commit=worker.commit,
        dirty=worker.dirty,
        began=began,
        ended=_now(),
    )
    write(worker.folder.cell(name), record)
    value = None if error else metrics[objective]
    worker.queue.end(worker.queue.trial_id(trial.number), state, value)
    return f"{state}: {error.message}" if error else f"{state}, {objective} {value:.4f}"


def _run_steps(plan: Plan, trial: Trial, worker: Worker) -> tuple[str, dict[str, float | None], Failure | None]:
    """How the trial ended, with which metrics, and why if it failed. A trial without a finite objective has failed,
    because Optuna takes only finite values."""
    (cell,), objective = plan.cells, worker.grid.metrics[0]
    guiding, metrics = cell.metrics[objective], {}
    try:
        for name in cell.steps:
            worker.run(plan, name, *([_watch(trial, objective)] if name == guiding else []))
            metrics |= worker.metrics(name)
    except StepError as error:
        return FAILED, metrics, error.failure
    except PrunedError as pruned:
        return PRUNED, metrics | {objective: pruned.value}, None
    if is_finite(metrics.get(objective)):
        return DONE, metrics, None
    message = f"ended well, and in its metrics.json {objective} is {metrics.get(objective, 'missing')}"
    return FAILED, metrics, Failure(step=guiding, message=message, log_tail=[])


def _watch(trial: Trial, objective: str) -> Callable[[Path], None]:
    """A function that reports each new validation with a finite metric to the pruner. It raises PrunedError if the
    pruner stops the trial."""
    seen: set[int] = set()

    def look(validations: Path) -> None:
        for point in read_validations(validations)[0]:
            value = point.metrics.get(objective)
            if point.step not in seen and is_finite(value):
                seen.add(point.step)
                trial.report(value, point.step)
                if trial.should_prune():
                    raise PrunedError(value)

    return look


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
