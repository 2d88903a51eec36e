"""Checks a grid, queues its cells, and runs them with local workers or hands them to SLURM."""

import argparse
from pathlib import Path

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run.begin import begin
from lit_blip2.ablation.run.dry_run import dry_run
from lit_blip2.ablation.run.locks import wait_lock
from lit_blip2.ablation.run.taken import kept_beside
from lit_blip2.ablation.run.workers import INTERRUPTED, run_workers
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.console import Console
from lit_blip2.terminal import say


def run(options: argparse.Namespace) -> int:
    """Everything between the command line and the exit status."""
    grid = read_grid(options.config, options.scale, options.set)
    if options.retry_failed and grid.ranges:
        raise ValueError(
            "--retry-failed is for a grid: a search's failed trial stays one of its `trials`; raise trials to draw more"
        )
    console = Console()
    for line in grid.left_out:
        console.print(f"left out: {line}", highlight=False)
    root = options.out or Path("sweeps") / grid.name
    if options.dry_run:
        table, lines, starts = dry_run(grid, Folder(root), kept_beside(grid, options.config), options.workers)
        console.print(table)
        say(*lines)
        return 0 if starts else 2
    if options.launcher == "slurm":
        from lit_blip2.ablation.run.slurm import submit  # before anything is begun: submitit may be missing
    folder = _folder(root)
    plan, queue, task = begin(grid, folder, options, console)
    for line in plan.left_out[len(grid.left_out) :]:
        console.print(f"left out: {line}", highlight=False)
    if options.launcher == "slurm":
        return submit(grid, folder, options, console)
    status = run_workers(grid, plan, queue, folder, options.workers, console, task)
    if status != INTERRUPTED:
        from lit_blip2.ablation.report.page import write_report  # takes seconds, which a dry run saves

        with wait_lock(folder.lock("report")):  # several machines may end at one time
            write_report(folder.root)
        say(f"report: {folder.root / 'report.md'}, {folder.root / 'report.html'}")
    return status


def _folder(root: str | Path) -> Folder:
    """The folder, which is made if it is missing. Raises ValueError if it cannot be made."""
    folder = Folder(root)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {root} cannot be a folder here: {error.strerror}") from error
    return folder
