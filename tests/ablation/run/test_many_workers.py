"""Many workers on many cells that take no time, half of the workers killed at random: the work is done as if none had
been. A storage that goes away comes back, and the sweep goes on by itself."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lit_blip2.ablation.folder import read
from lit_blip2.ablation.schema import Record
from tests.ablation.run.hand_made import WAIT_SECONDS, HandMade, until

pytestmark = [pytest.mark.run, pytest.mark.slow]
CELLS, WORKERS = 200, 8
MOST = 1.5  # of the undisturbed sweep's time
AWAY_SECONDS = 30


def seconds(sweep: HandMade, start, kills: list[float]) -> float:
    """From the start of all workers to the end of the last one; kills: when workers are, every other one with its
    run."""
    began = time.monotonic()
    workers = [start(sweep) for _ in range(WORKERS)]
    for number, (at, worker) in enumerate(zip(sorted(kills), workers)):
        time.sleep(max(0.0, began + at - time.monotonic()))
        assert worker.poll() is None
        (os.killpg if number % 2 else os.kill)(worker.pid, signal.SIGKILL)
    for worker in workers[len(kills) :]:
        assert worker.wait(WAIT_SECONDS) == 0, worker.communicate()[0].decode()
    return time.monotonic() - began


@pytest.fixture
def storage(request, tmp_path):
    """Of the kind that is asked for: a URL for a name."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")

        def database(name: str) -> str:
            psql = ["psql", "-h", str(server.home), "-U", "test", "postgres", "-c", f"create database {name}"]
            subprocess.run(psql, check=True, capture_output=True)
            return server.url.replace("/postgres?", f"/{name}?")

        return database
    return {"sqlite": f"sqlite:///{tmp_path}/{{}}.db", "journal": f"journal:{tmp_path}/{{}}.log"}[request.param].format


@pytest.mark.parametrize("storage", ["sqlite", "journal", "postgresql"], indirect=True)
def test_half_of_the_workers_are_killed_and_each_cell_is_done_once(make, start, storage, capsys):
    undisturbed, disturbed = (make(CELLS, name, storage(name)) for name in ("undisturbed", "disturbed"))
    alone = seconds(undisturbed, start, [])
    undisturbed.check_all_done_once()
    dice = random.Random(0)
    taken = seconds(disturbed, start, [dice.uniform(0.1, 0.8) * alone for _ in range(WORKERS // 2)])
    disturbed.check_all_done_once()
    with capsys.disabled():
        print(f"{alone:.1f} s undisturbed, {taken:.1f} s with kills")
    assert taken < MOST * alone


@pytest.mark.parametrize("storage", ["sqlite", "journal", "postgresql"], indirect=True)
def test_a_storage_that_is_gone_for_half_a_minute_is_waited_for(make, start, storage, tmp_path, request):
    sweep = make(30, storage=storage("study"))
    workers = [start(sweep) for _ in range(2)]
    until(lambda: len({read(file, Record).worker for file in sweep.folder.cells()}) == len(workers))
    if "postgresql" in sweep.storage:
        server = request.getfixturevalue("postgres")
        server.stop()
        comes_back = server.start
    else:
        file = Path(sweep.storage.partition(":")[2].removeprefix("///"))
        comes_back = lambda: file.with_name("away").rename(file)  # noqa: E731
        file.rename(file.with_name("away"))
    began = time.monotonic()
    time.sleep(AWAY_SECONDS)
    for worker in workers:
        assert worker.poll() is None, worker.communicate()[0].decode()
    assert len(sweep.folder.cells()) < sweep.number
    comes_back()
    said = [worker.communicate(timeout=WAIT_SECONDS)[0].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    sweep.check_all_done_once()
    for each in said:
        told = [line for line in each.splitlines() if line.startswith("the queue's storage is")]
        assert len(told) == 2 and "is back after" in told[1], each
    print(f"{time.monotonic() - began - AWAY_SECONDS:.0f} s behind its return")
