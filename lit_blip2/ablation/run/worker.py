"""A worker: takes cells from the queue one by one and runs their steps, until none is open."""

import math
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from optuna.trial import TrialState

from lit_blip2.ablation.run.board import write_cell
from lit_blip2.ablation.run.folder import Folder, is_locked, write_json
from lit_blip2.ablation.run.job import Job
from lit_blip2.ablation.run.plan import Plan, PlannedCell
from lit_blip2.ablation.run.queue import OPEN
from lit_blip2.ablation.run.step import StepError, metrics_of

WAIT_SECONDS = 1.0


def work(plan: Plan, job: Job) -> None:
    """Run cells until none is open, or the job is to stop."""
    cells = {cell.name: cell for cell in plan.cells}
    while not job.stopping():
        with job.queue.take(lambda name: _blocked(cells[name], job.folder)) as taken:
            if taken is not None:
                name, trial_id = taken
                job.tell(f"{name}: begins")
                job.tell(f"{name}: {_run_cell(plan, cells[name], trial_id, job)}")
                continue
        if not job.queue.trials(OPEN):
            return
        time.sleep(WAIT_SECONDS)  # what is open waits for a step that another worker runs


def _blocked(cell: PlannedCell, folder: Folder) -> bool:
    """Whether the first step that is still to be run is being run by somebody else."""
    undone = [name for name in cell.steps if not folder.done(name).exists()]
    return bool(undone) and is_locked(folder.lock(undone[0]))


def _run_cell(plan: Plan, cell: PlannedCell, trial_id: int, job: Job) -> str:
    """Run the cell's steps, record how it ended, and say so in a word. What is no fault of the cell (StoppedError,
    a full disk, changed sources) is raised, and the cell waits again."""
    began = datetime.now(UTC)
    record: dict[str, Any] = {"state": "done", "metrics": {}, "error": None}
    try:
        job.queue.record(trial_id, cell.labels, cell.seed, job.grid)
        for name in cell.steps:
            job.run(plan, name)
        record["metrics"] = _metrics(cell, plan, job.folder)
        _check(cell, record["metrics"])
    except StepError as failure:
        record |= {"state": "failed", "error": failure.record}
    except Exception:
        with suppress(Exception):
            job.queue.put_back(trial_id)
        raise
    record |= {"labels": cell.labels, "seed": cell.seed, "worker": f"{os.uname().nodename}:{os.getpid()}"}
    write_cell(job.folder, job.grid, cell, record)
    record |= {"began": began.isoformat(), "ended": datetime.now(UTC).isoformat()}
    write_json(job.folder.cell(cell.name), record)
    if record["state"] == "failed":
        job.queue.end(trial_id, TrialState.FAIL)
        return f"failed, {record['error']['step']}: {record['error']['message']}"
    job.queue.end(trial_id, TrialState.COMPLETE, record["metrics"].get(job.grid.metrics[0]))
    return "done"


def _metrics(cell: PlannedCell, plan: Plan, folder: Folder) -> dict[str, float]:
    """Every metric of the cell's runs, a later step's over an earlier's, a compared one of its own step alone."""
    of_step = {name: metrics_of(plan.steps[name], folder) for name in cell.steps}
    found = {metric: value for metrics in of_step.values() for metric, value in metrics.items()}
    for metric, name in cell.metrics.items():
        found.pop(metric, None)
        if name is not None and metric in of_step[name]:
            found[metric] = of_step[name][metric]
    return found


def _check(cell: PlannedCell, metrics: dict[str, float]) -> None:
    """Raises StepError where a compared metric that the cell can have is missing or not finite."""
    for metric, name in cell.metrics.items():
        if name is not None and not math.isfinite(metrics.get(metric, math.nan)):
            message = f"ended well, and in its metrics.json {metric} is {metrics.get(metric, 'missing')}"
            raise StepError({"step": name, "message": message, "log_tail": []})
