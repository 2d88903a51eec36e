"""`python -m lit_blip2 sweep`: check a grid, queue its cells, run them with local workers or hand them to SLURM."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lit_blip2.ablation.report.page import write_report
from lit_blip2.ablation.run.folder import Folder, read_json, wait_lock, write_json
from lit_blip2.ablation.run.job import Job
from lit_blip2.ablation.run.machine import gpus, own_gpu, run_prepare, thread_share
from lit_blip2.ablation.run.plan import Plan, make_plan
from lit_blip2.ablation.run.progress import Progress, plan_table
from lit_blip2.ablation.run.queue import JOURNAL, STORAGE_ERRORS, Queue, open_storage
from lit_blip2.ablation.run.record import asked_pairs, describe, versions
from lit_blip2.ablation.run.search import make_space, search, trial_plan
from lit_blip2.ablation.run.step import StoppedError
from lit_blip2.ablation.run.worker import work
from lit_blip2.ablation.spec.grid import Grid, read_grid

INTERRUPTED = 130
LOST_STORAGE = "the queue's storage failed; what is done stays done: start the same command again when it is back"
EXAMPLES = """
examples:
  python -m lit_blip2 sweep --config ablations/objectives.yaml --dry-run        what would run, and what is shared
  python -m lit_blip2 sweep --config ablations/objectives.yaml --workers 2      run it; again: go on where it stopped
  python -m lit_blip2 sweep --config ablations/objectives.yaml --retry-failed   run what failed once more
  python -m lit_blip2 sweep --config ablations/objectives.yaml --storage postgresql://user@host/optuna --out /shared/a
                            the same line on every machine: all of them take cells from one queue
  python -m lit_blip2 sweep --config ablations/objectives.yaml --launcher slurm --workers 8 --out /shared/a
  python -m lit_blip2 report sweeps/objectives                                  its report, at any time
"""


def parser() -> argparse.ArgumentParser:
    """The options of `sweep`."""
    made = argparse.ArgumentParser(
        prog="python -m lit_blip2 sweep",
        description="Run an ablation: every cell of a grid, each a chain of ordinary commands; equal steps run once.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", required=True, help="the ablation, a YAML file in ablations/")
    made.add_argument(
        "--workers", type=int, default=1, help="cells that run at the same time (with GPUs: one GPU each)"
    )
    made.add_argument("--out", help="folder that all workers see; default sweeps/NAME")
    made.add_argument(
        "--storage",
        help="the queue: sqlite:///FILE (default, in the folder; one machine), postgresql://USER@HOST/DATABASE, or "
        "journal:FILE on a shared file system (default with SLURM)",
    )
    made.add_argument("--launcher", choices=("local", "slurm"), default="local", help="who starts the workers")
    made.add_argument("--dry-run", action="store_true", help="check every cell, list what would run and what is shared")
    made.add_argument("--retry-failed", action="store_true", help="put a grid's failed cells back into the queue")
    return made


def main(arguments: list[str]) -> int:
    """Parse and run; 0 if every cell is done, 1 if some failed, 2 for what cannot be begun, 130 if interrupted."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, until there are workers to be ended
    try:
        if options.workers < 1:
            raise ValueError(f"--workers {options.workers} must be at least 1")
        return run(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
    except STORAGE_ERRORS as error:
        print(f"error: {lost_storage(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 2


def lost_storage(error: Exception) -> str:
    """What a storage's own error says, and what to do."""
    return f"{LOST_STORAGE} ({(str(error).strip() or type(error).__name__).splitlines()[0]})"


def run(options: argparse.Namespace) -> int:
    """Everything between the command line and the exit status."""
    grid = read_grid(options.config)
    if options.retry_failed and grid.ranges:
        raise ValueError(
            "--retry-failed is for a grid: a search's failed trial stays one of its `trials`; raise trials to draw more"
        )
    console = Console()
    if options.dry_run:
        console.print(dry_run(grid))
        return 0
    folder = Folder(options.out or Path("sweeps") / grid.name)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder.root} cannot be a folder here: {error.strerror}") from error
    plan, queue, worker = begin(grid, folder, options, console)
    if options.launcher == "slurm":
        from lit_blip2.ablation.run.slurm import submit

        return submit(grid, folder, options, console)
    status = run_workers(grid, plan, queue, folder, options.workers, console, worker)
    if status != INTERRUPTED:
        with wait_lock(folder.lock("report")):  # several machines may end at one time
            write_report(folder.root)
        console.print(f"report: {folder.root / 'report.md'}, {folder.root / 'report.html'}", highlight=False)
    return status


def dry_run(grid: Grid) -> Table:
    """What a sweep would run. The data need not be there yet; models that the cells name must be."""
    try:
        return plan_table(grid, plan_or_space(grid, files=False)[0])
    except ValueError as error:
        begins = "".join(f"\n  python -m lit_blip2 {line}" for line in grid.prepare)
        raise ValueError(f"{error}\nA sweep begins with its `prepare`, a dry run does not:{begins}") from error


def plan_or_space(grid: Grid, files: bool = True) -> tuple[Plan, Callable[..., None]]:
    """What will be run, and what a worker does: cells of a grid, or trials of a search, whose plan shows the first.

    files: whether the data must be there; before `prepare` has run they may not be.
    """
    if not grid.ranges:
        plan = make_plan(grid, files)
        return plan, partial(work, plan)
    space = make_space(grid, files)
    return trial_plan(grid, space, {name: each.low for name, each in grid.ranges.items()}), partial(search, space)


def begin(
    grid: Grid, folder: Folder, options: argparse.Namespace, console: Console
) -> tuple[Plan, Queue, Callable[..., None]]:
    """Prepare, plan and fill the queue; who starts at the same time waits for the first to do it."""
    default = f"{JOURNAL}{folder.root / 'study.log'}" if options.launcher == "slurm" else None
    with wait_lock(folder.lock("begin")):
        storage = open_storage(options.storage or default or f"sqlite:///{folder.root / 'study.db'}")
        with wait_lock(Path("sweeps/.prepare.lock")):  # another sweep may want the same data
            for line in grid.prepare:
                console.print(f"python -m lit_blip2 {line}", style="dim", highlight=False, soft_wrap=True)
                run_prepare(line)
        with console.status("Resolving and checking every cell"):
            plan, worker = plan_or_space(grid)
        _check_versions(folder)
        _check_same(plan, folder)
        queue = Queue(storage, grid, plan.identity, folder)
        write_json(folder.plan, (read_json(folder.plan) or describe(grid, plan, options)) | asked_pairs(grid))
        if not grid.ranges:
            queue.fill(plan)
        if options.retry_failed:
            _retry(plan, queue, folder, console)
    return plan, queue, worker


def _check_versions(folder: Folder) -> None:
    """Raises ValueError where the sweep was begun with other libraries."""
    known, now = (read_json(folder.plan) or {}).get("versions", {}), versions()
    if other := [f"{name} {known[name]}, now {now[name]}" for name in now if known.get(name, now[name]) != now[name]]:
        raise ValueError(
            f"{folder.root} holds a sweep that was begun with {'; '.join(other)}: its cells would not be comparable. "
            "Install what it was begun with, or give another --out"
        )


def _check_same(plan: Plan, folder: Folder) -> None:
    """Raises ValueError where the folder belongs to another grid, other data or other sources, saying which."""
    known = read_json(folder.plan)
    if known is None or known["identity"] == plan.identity:
        return
    cells = {cell["name"] for cell in known["cells"]}, {cell.name for cell in plan.cells}
    if known["cells"] and cells[0] != cells[1]:
        gone, new = len(cells[0] - cells[1]), len(cells[1] - cells[0])
        what = f"another grid: {gone} of its cells are not in this one, {new} are new"
    elif known["sources"] != plan.sources:
        what = (
            f"other sources of lit_blip2 (it was begun at commit {known['commit']}): its cells would not be comparable"
        )
    else:
        what = "other metrics, another control, or other settings, ranges or data files in its steps"
    raise ValueError(f"{folder.root} holds a sweep of this name with {what}. Give another --out, or remove the folder")


def _retry(plan: Plan, queue: Queue, folder: Folder, console: Console) -> None:
    """Forget how the failed cells failed, then queue them: a worker may take one at once."""
    cells, failed = {cell.name: cell for cell in plan.cells}, queue.failed()
    for name in failed:
        record = read_json(folder.cell(name)) or {}
        if at_fault := (record.get("error") or {}).get("step"):
            folder.done(at_fault).unlink(missing_ok=True)  # it may have ended well, and without a figure
        folder.cell(name).unlink(missing_ok=True)
        for step in cells[name].steps:
            folder.failed(step).unlink(missing_ok=True)
    queue.put_again(failed)
    console.print("\n".join(f"{name}: back in the queue" for name in failed), highlight=False, markup=False)


def run_workers(
    grid: Grid, plan: Plan, queue: Queue, folder: Folder, workers: int, console: Console, worker: Callable[..., None]
) -> int:
    """Local workers, a live table of the cells, and the exit status. `worker`: see `plan_or_space`.

    Raises what stopped a worker; a storage's own errors as ConnectionError, with what to do.
    """
    if plan.wants_gpus and 0 < len(gpus()) < workers:
        raise ValueError(
            f"--workers {workers} on {len(gpus())} GPUs: use as many as there are (or CUDA_VISIBLE_DEVICES= for runs "
            "on the CPU)"
        )
    stop, problems, interrupted = threading.Event(), [], []
    progress = Progress(grid, plan, queue, folder, workers, console)

    def one() -> None:
        try:
            with own_gpu() if plan.wants_gpus else nullcontext({}) as gpu:
                environment = os.environ | thread_share(workers) | gpu
                worker(Job(grid, queue, folder, environment, stop.is_set, progress.tell))
        except StoppedError:
            pass
        except Exception as error:
            problems.append(error)
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: (interrupted.append(True), stop.set()))
    threads = [threading.Thread(target=one) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        progress.show_until(lambda: not any(thread.is_alive() for thread in threads))
    except Exception as error:
        problems.append(error)
    stop.set()
    for thread in threads:
        thread.join()
    if problems:
        if isinstance(problems[0], STORAGE_ERRORS):
            raise ConnectionError(lost_storage(problems[0])) from problems[0]
        raise problems[0]
    return INTERRUPTED if interrupted else progress.finish()
