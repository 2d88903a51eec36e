"""A worker on a grid: it takes cells from the queue one by one and runs their steps, until none is open."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.run.locks import is_locked
from lit_blip2.ablation.run.queue import OPEN
from lit_blip2.ablation.run.step import StepError
from lit_blip2.ablation.run.tensorboard import write_cell
from lit_blip2.ablation.run.worker import Worker
from lit_blip2.ablation.schema import DONE, FAILED, Cell, Failure, Plan, Record, is_finite

WAIT_SECONDS = 1.0


def work(plan: Plan, worker: Worker) -> None:
    """Run cells until none is open, or the worker must stop."""
    cells = {cell.name: cell for cell in plan.cells}
    while not worker.stopping():
        with worker.queue.take(lambda name: _blocked(cells[name], worker.folder)) as taken:
            if taken is not None:
                name, trial_id = taken
                worker.tell(f"{name}: begins")
                worker.tell(f"{name}: {_run_cell(plan, cells[name], trial_id, worker)}")
                continue
        if not worker.queue.trials(OPEN):
            return
        time.sleep(WAIT_SECONDS)  # the open cells wait for a step that another worker runs


def _blocked(cell: Cell, folder: Folder) -> bool:
    """Whether another worker runs the first step that the cell still needs."""
    undone = [name for name in cell.steps if not folder.done(name).exists()]
    return bool(undone) and is_locked(folder.lock(undone[0]))


def _run_cell(plan: Plan, cell: Cell, trial_id: int, worker: Worker) -> str:
    """Run the cell's steps, record how it ended, and say so in a word."""
    began = datetime.now(UTC)
    metrics, error = _run_steps(plan, cell, trial_id, worker)
    state = FAILED if error else DONE
    write_cell(worker.folder, worker.grid, cell, state, metrics)
    record = Record(
        name=cell.name,
        state=state,
        metrics=metrics,
        error=error,
        labels=cell.labels,
        seed=cell.seed,
        worker=f"{os.uname().nodename}:{os.getpid()}",
        keys={name: plan.steps[name].key for name in cell.steps},
        reached=worker.reached(plan, cell),
        commit=worker.commit,
        dirty=worker.dirty,
        began=began,
        ended=datetime.now(UTC),
    )
    write(worker.folder.cell(cell.name), record)
    worker.queue.end(trial_id, state, None if error else metrics.get(worker.grid.metrics[0]))
    return f"failed, {error.step}: {error.message}" if error else state


def _run_steps(plan: Plan, cell: Cell, trial_id: int, worker: Worker) -> tuple[dict[str, float | None], Failure | None]:
    """The cell's metrics, and why it failed if it did. An error that is no fault of the cell (StoppedError, a full
    disk, changed sources) is raised, and the cell waits again."""
    metrics: dict[str, float | None] = {}
    try:
        worker.queue.record(trial_id, cell, worker.grid)
        for name in cell.steps:
            worker.run(plan, name)
        metrics = cell_metrics(cell, {name: worker.metrics(name) for name in cell.steps})
        return metrics, lacking(cell, metrics)
    except StepError as error:
        return metrics, error.failure
    except Exception:
        with suppress(Exception):
            worker.queue.put_back(trial_id)
        raise


def cell_metrics(cell: Cell, of_step: Mapping[str, dict[str, float | None]]) -> dict[str, float | None]:
    """All metrics of the cell's runs. A later step's value replaces an earlier one's; a compared metric comes only from
    its own step. of_step: what each of the step runs ended with, in their order."""
    merged = {metric: value for metrics in of_step.values() for metric, value in metrics.items()}
    for metric, name in cell.metrics.items():
        merged.pop(metric, None)
        if name is not None and metric in of_step[name]:
            merged[metric] = of_step[name][metric]
    return merged


def lacking(cell: Cell, metrics: dict[str, float | None]) -> Failure | None:
    """A failure if a compared metric that the cell can have is missing or not finite; else None."""
    for metric, name in cell.metrics.items():
        if name is not None and not is_finite(metrics.get(metric)):
            message = f"ended well, and in its metrics.json {metric} is {metrics.get(metric, 'missing')}"
            return Failure(step=name, message=message, log_tail=[])
    return None
