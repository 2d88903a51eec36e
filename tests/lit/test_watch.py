"""Ranks that wait for one that has died."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from lit_blip2.lit import watch
from lit_blip2.lit.watch import Watch

pytestmark = pytest.mark.run

QUICK = 5.0  # seconds, on a busy machine


def _run(rank: int, count: int, folder: Path, ends, grace: float) -> None:
    """A rank that waits for ever, unless it is its turn to end."""
    with (folder / f"{rank}.err").open("w") as errors:
        sys.stderr = errors
        watch.GRACE_SECONDS, watch.SETTLE_SECONDS = grace, 0.2
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
        watched = Watch("127.0.0.1")
        dist.barrier()
        ends(rank, watched)
        time.sleep(60)


def started(count: int, folder: Path, ends, grace: float = 0.2) -> tuple[list[int], list[str], float]:
    """Exit status and what each rank said, and how long the first one took."""
    context, begin = multiprocessing.get_context("fork"), time.monotonic()
    processes = [context.Process(target=_run, args=(rank, count, folder, ends, grace)) for rank in range(count)]
    for each in processes:
        each.start()
    processes[0].join(40)
    seconds = time.monotonic() - begin
    for each in processes:
        each.join(40)
        each.kill()
    said = [(folder / f"{rank}.err").read_text() for rank in range(count)]
    return [each.exitcode for each in processes], said, seconds


def told(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_rank_that_is_killed_ends_the_others_and_is_named_once(tmp_path, dead):
    def ends(rank, watched):
        if rank == dead:
            os.kill(os.getpid(), signal.SIGKILL)

    codes, said, seconds = started(3, tmp_path, ends)
    assert codes == [-signal.SIGKILL if rank == dead else 1 for rank in range(3)] and seconds < QUICK
    (line,) = told("\n".join(said))
    assert f"rank {dead} of 3 (" in line and "is gone: it was killed" in line
    assert told(said[0] if dead else said[1])


def test_a_rank_that_ends_with_an_error_takes_the_others_along(tmp_path):
    def ends(rank, watched):
        if rank == 1:
            watched.leave("ValueError: no such image")
            os._exit(3)

    codes, said, seconds = started(3, tmp_path, ends)
    assert codes == [1, 3, 1] and seconds < QUICK
    assert "rank 1 of 3 (" in said[0] and "has ended: ValueError: no such image" in said[0] and not told(said[2])


def test_an_error_that_all_share_is_not_told_of_each_other(tmp_path):
    def ends(rank, watched):
        watched.leave("ValueError: no such file")
        os._exit(4)

    codes, said, _ = started(3, tmp_path, ends)
    assert codes == [4, 4, 4] and not told("\n".join(said))


def test_ranks_that_leave_one_after_the_other_end_nobody(tmp_path):
    def ends(rank, watched):
        time.sleep(0.5 * rank)
        watched.leave()
        time.sleep(2 - 0.5 * rank)
        os._exit(0)

    codes, said, _ = started(3, tmp_path, ends)
    assert codes == [0, 0, 0] and not told("\n".join(said))


def test_a_rank_has_time_to_finish_what_it_does(tmp_path):
    def ends(rank, watched):
        if rank == 1:
            os._exit(9)
        time.sleep(2)
        watched.leave()
        os._exit(7)

    codes, said, _ = started(2, tmp_path, ends, grace=20)
    assert codes == [7, 9] and len(told(said[0])) == 1


def test_children_that_outlive_a_rank_hold_no_connection(tmp_path):
    """As a loader's processes do after a kill."""

    def ends(rank, watched):
        if rank == 1:
            if not os.fork():
                time.sleep(6)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    codes, said, seconds = started(2, tmp_path, ends)
    assert codes == [1, -signal.SIGKILL] and seconds < QUICK and told(said[0])
