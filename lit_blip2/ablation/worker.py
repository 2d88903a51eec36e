"""A worker: takes cells from the queue one by one and runs their steps, until none is open."""

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from optuna.trial import TrialState

from lit_blip2.ablation.board import write_cell
from lit_blip2.ablation.folder import Folder, is_locked, write_json
from lit_blip2.ablation.grid import Grid
from lit_blip2.ablation.plan import Plan, PlannedCell
from lit_blip2.ablation.queue import OPEN, Queue
from lit_blip2.ablation.step import StepError, StoppedError, metrics_of, run_step

WAIT_SECONDS = 1.0


def work(
    grid: Grid,
    plan: Plan,
    queue: Queue,
    folder: Folder,
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """Run cells until none is open or `stopping()`; `tell` gets a line for each start and end."""
    cells = {cell.name: cell for cell in plan.cells}
    while not stopping():
        with queue.take(lambda name: _blocked(cells[name], plan, folder)) as taken:
            if taken is not None:
                name, trial_id = taken
                tell(f"{name}: begins")
                ended = _run_cell(grid, plan, cells[name], queue, trial_id, folder, environment, stopping)
                tell(f"{name}: {ended}")
                continue
        if not queue.trials(OPEN):
            return
        time.sleep(WAIT_SECONDS)  # what is open waits for a step that another worker runs


def _blocked(cell: PlannedCell, plan: Plan, folder: Folder) -> bool:
    """Whether the first step that is still to be run is being run by somebody else."""
    undone = [name for name in cell.steps if not folder.done(name).exists()]
    return bool(undone) and is_locked(folder.lock(undone[0]))


def _run_cell(
    grid: Grid,
    plan: Plan,
    cell: PlannedCell,
    queue: Queue,
    trial_id: int,
    folder: Folder,
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
) -> str:
    """Run the cell's steps, record how it ended, and say so in a word. Raises OSError where the disk is full."""
    began = datetime.now(UTC)
    record: dict[str, Any] = {"state": "done", "metrics": {}, "error": None}
    try:
        queue.record(trial_id, cell.labels, cell.seed, grid)
        for name in cell.steps:
            run_step(plan.steps[name], folder, environment, stopping)
        record["metrics"] = _metrics(cell, plan, folder)
    except (StoppedError, OSError):
        with suppress(Exception):
            queue.put_back(trial_id)
        raise
    except StepError as failure:
        record |= {"state": "failed", "error": failure.record}
    record |= {"labels": cell.labels, "seed": cell.seed, "worker": f"{os.uname().nodename}:{os.getpid()}"}
    record |= {"began": began.isoformat(timespec="seconds"), "ended": datetime.now(UTC).isoformat(timespec="seconds")}
    write_cell(folder, grid, cell, record)
    write_json(folder.cell(cell.name), record)
    if record["state"] == "failed":
        queue.end(trial_id, TrialState.FAIL)
        return f"failed, {record['error']['step']}: {record['error']['message']}"
    queue.end(trial_id, TrialState.COMPLETE, record["metrics"].get(grid.metrics[0]))
    return "done"


def _metrics(cell: PlannedCell, plan: Plan, folder: Folder) -> dict[str, float]:
    """Every metric of the cell's runs, a later step's over an earlier's. Raises StepError where a compared one is
    missing or not finite."""
    found: dict[str, float] = {}
    for name in cell.steps:
        found |= metrics_of(plan.steps[name], folder)
    for metric, name in cell.metrics.items():
        if name is not None and not math.isfinite(found.get(metric, math.nan)):
            message = f"ended well, and in its metrics.json {metric} is {found.get(metric, 'missing')}"
            raise StepError({"step": name, "message": message, "log_tail": []})
    return found
