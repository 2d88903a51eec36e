"""The workers of one command: threads that run cells, a live table of them, and an orderly end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run.machine import gpus, own_gpu, thread_share, wants_gpus
from lit_blip2.ablation.run.progress import Progress
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.step import StoppedError
from lit_blip2.ablation.run.worker import Worker
from lit_blip2.ablation.schema import Plan
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.console import Console

INTERRUPTED = 130


def run_workers(
    grid: Grid, plan: Plan, queue: Queue, folder: Folder, workers: int, console: Console, task: Callable[[Worker], None]
) -> int:
    """Run the workers; returns the exit status once all have ended. task: see `plan_or_space`. Raises what stopped a
    worker."""
    _check_gpus(plan, workers)
    stop, progress = queue.storage.stop, Progress(grid, plan, queue, folder, workers, console)

    def one() -> None:
        try:
            with own_gpu() if wants_gpus(plan) else nullcontext({}) as gpu, suppress(StoppedError):
                environment = os.environ | thread_share(workers) | gpu
                of_code = (plan.commit, plan.dirty)
                task(Worker(grid, queue, folder, environment, stop.is_set, progress.tell, *of_code))
        except BaseException:
            stop.set()
            raise

    with _stopping_at_signals(stop) as interrupted, ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(one) for _ in range(workers)]
        try:
            with suppress(StoppedError):
                progress.show_until(lambda: all(each.done() for each in running))
        finally:
            stop.set()
    for each in running:
        each.result()
    return INTERRUPTED if interrupted else progress.finish()


def _check_gpus(plan: Plan, workers: int) -> None:
    """Raises ValueError for more workers than GPUs."""
    if wants_gpus(plan) and 0 < len(gpus()) < workers:
        raise ValueError(
            f"--workers {workers} on {len(gpus())} GPUs: use as many as there are (or CUDA_VISIBLE_DEVICES= for runs "
            "on the CPU)"
        )


@contextmanager
def _stopping_at_signals(stop: threading.Event) -> Iterator[list[int]]:
    """Sets `stop` when a signal asks for an end; yields the numbers of these signals."""
    seen: list[int] = []

    def end(number: int, frame: object) -> None:
        seen.append(number)
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
