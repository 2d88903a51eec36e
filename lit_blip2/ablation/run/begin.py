"""Begins or resumes a sweep: checks its folder, writes its plan and fills its queue."""

import argparse
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lit_blip2.ablation.folder import Folder, read, write
from lit_blip2.ablation.run.beside import take_beside
from lit_blip2.ablation.run.cells import work
from lit_blip2.ablation.run.locks import wait_lock
from lit_blip2.ablation.run.machine import run_prepare
from lit_blip2.ablation.run.plan import make_plan
from lit_blip2.ablation.run.provenance import provenance, versions
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.reads import check_unchanged
from lit_blip2.ablation.run.space import make_space, trial_plan
from lit_blip2.ablation.run.storage import JOURNAL, open_storage
from lit_blip2.ablation.run.taken import kept_beside, take
from lit_blip2.ablation.run.trials import search
from lit_blip2.ablation.run.worker import Worker
from lit_blip2.ablation.schema import Plan, Record
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.console import Console
from lit_blip2.links import check_links


def plan_or_space(
    grid: Grid, files: bool = True, missing: list[str] | None = None, known: Plan | None = None
) -> tuple[Plan, Callable[[Worker], None]]:
    """The plan, and what a worker does: run a grid's cells, or a search's trials. A search's plan shows one trial, at
    the low ends of its ranges.

    files: whether the data must exist. Before `prepare` has run they may not; `missing` then receives what is missing.
    known: the plan with which the sweep began.
    """
    there = None if known is None else known.files
    if not grid.ranges:
        plan = make_plan(grid, files, missing, there)
        return plan, partial(work, plan)
    space = make_space(grid, files, there)
    return trial_plan(grid, space, {name: each.low for name, each in grid.ranges.items()}), partial(search, space)


def begin(
    grid: Grid, folder: Folder, options: argparse.Namespace, console: Console
) -> tuple[Plan, Queue, Callable[[Worker], None]]:
    """Prepare, plan and fill the queue. A process that starts at the same time waits for the first to do it.

    Raises ValueError if the folder or the storage belongs to another sweep, or a link leads out of the folder, and
    ConnectionError for a storage that cannot be used; a folder without a sweep is then removed.
    """
    check_links(folder.root)  # everything below writes there
    default = f"{JOURNAL}{folder.root / 'study.log'}" if options.launcher == "slurm" else None
    with wait_lock(folder.lock("begin")):
        try:
            storage = open_storage(options.storage or default or f"sqlite:///{folder.root / 'study.db'}")
        except ConnectionError:
            _remove_lock(folder)
            raise
        _prepare(grid, console)
        known = read(folder.plan, Plan)
        with console.status("Resolving and checking every cell"):
            plan, task = plan_or_space(grid, known=known)
        if known is not None:
            check_versions(known, folder)
            check_same(known, plan, folder)
            check_unchanged(folder)
        queue = Queue(storage, grid, plan.identity, folder)
        plan = plan.model_copy(update=provenance(options))
        _write_plan(grid, known, plan, folder)
        if not grid.ranges:
            if not options.anew:
                told = take_beside(plan, folder) + take(plan, grid, kept_beside(grid, options.config), folder, queue)
                for line in told:
                    console.print(line, highlight=False, soft_wrap=True)
            queue.fill(plan)
        if options.retry_failed:
            retry(plan, queue, folder, console)
    return plan, queue, task


def _remove_lock(folder: Folder) -> None:
    """Remove the folder if it holds nothing but the lock under which a sweep begins."""
    lock = folder.lock("begin")
    if set(folder.root.rglob("*")) == {lock, lock.parent}:
        shutil.rmtree(folder.root)


def _prepare(grid: Grid, console: Console) -> None:
    with wait_lock(Path("sweeps/.prepare.lock")):  # another sweep may want the same data
        for line in grid.prepare:
            console.print(f"python -m lit_blip2 {line}", style="dim", highlight=False, soft_wrap=True)
            run_prepare(line)


def _write_plan(grid: Grid, known: Plan | None, plan: Plan, folder: Folder) -> None:
    """Write the plan once. Later only the pairs to compare and the number of a search's trials may change, because no
    cell depends on them. A search's plan has no cells."""
    if known is None:
        known = plan.model_copy(update={"cells": [], "steps": {}} if grid.ranges else {})
    write(folder.plan, known.model_copy(update={"compare": plan.compare, "search": plan.search}))


def check_versions(known: Plan, folder: Folder) -> None:
    """Raises ValueError if the sweep was begun with other versions of the libraries."""
    now = versions()
    if other := [
        f"{name} {known.versions[name]}, now {now[name]}"
        for name in now
        if known.versions.get(name, now[name]) != now[name]
    ]:
        raise ValueError(
            f"{folder.root} holds a sweep that was begun with {'; '.join(other)}: its cells would not be comparable. "
            "Install what it was begun with, or give another --out"
        )


def check_same(known: Plan, plan: Plan, folder: Folder) -> None:
    """Raises ValueError, which says why, if the folder belongs to another grid, other data or other sources."""
    if known.identity == plan.identity:
        return
    before, now = {cell.name for cell in known.cells}, {cell.name for cell in plan.cells}
    if known.cells and before != now:
        what = f"another grid: {len(before - now)} of its cells are not in this one, {len(now - before)} are new"
    elif _codes(known) != _codes(plan) or (not known.cells and known.sources != plan.sources):
        what = f"other code of lit_blip2 (it was begun at commit {known.commit}): its cells would not be comparable"
    elif other := sorted(path for path in known.files | plan.files if known.files.get(path) != plan.files.get(path)):
        what = f"other contents of {other[0]}, which a step's config names"
    else:
        what = "other metrics, another control, or other settings, ranges or data files in its steps"
    raise ValueError(f"{folder.root} holds a sweep of this name with {what}. Give another --out, or remove the folder")


def _codes(plan: Plan) -> set[str]:
    return {run.code for run in plan.steps.values()}


def retry(plan: Plan, queue: Queue, folder: Folder, console: Console) -> None:
    """Delete the records of failure of the failed cells, then queue these: a worker may take one at once."""
    cells, failed = {cell.name: cell for cell in plan.cells}, queue.failed()
    for name in failed:
        record = read(folder.cell(name), Record)
        if record and record.error and record.error.step in cells[name].steps:
            folder.done(record.error.step).unlink(missing_ok=True)  # it may have ended well, but without a metric
        folder.cell(name).unlink(missing_ok=True)
        for step in cells[name].steps:
            folder.failed(step).unlink(missing_ok=True)
    queue.put_again(failed)
    console.print("\n".join(f"{name}: back in the queue" for name in failed), highlight=False)
