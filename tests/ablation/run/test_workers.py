"""Workers that are killed, stopped or that fail: every cell is done exactly once, on every kind of storage."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from optuna.trial import TrialState

from lit_blip2.ablation.run.storage import open_storage

HERE = Path(__file__).parent
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
def start_worker():
    """Start a worker process on a hand-made plan (see `hand_made.py`); it is a process group of its own."""
    started = []

    def start(out: Path, storage: str, cells: int = 6, *options: str) -> subprocess.Popen:
        command = [sys.executable, str(HERE / "hand_made.py"), str(out), storage, str(cells), *options]
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[2])}
        process = subprocess.Popen(
            command,
            start_new_session=True,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def states(storage: str) -> list[tuple[str, TrialState]]:
    opened = open_storage(storage)
    trials = opened.get_all_trials(opened.get_study_id_from_name("hand_made"))
    return [(trial.user_attrs["cell"], trial.state) for trial in trials]


def check_all_done_once(out: Path, storage: str, cells: int) -> None:
    """One trial per cell, complete; every step ended well, and no line of its work was done twice."""
    assert Counter(states(storage)) == {(f"k={k},seed=0", TrialState.COMPLETE): 1 for k in range(cells)}
    assert {json.loads(file.read_text())["state"] for file in (out / "cells").glob("*.json")} == {"done"}
    runs = list((out / "runs").glob("*/*"))
    assert len(runs) == cells + -(-cells // 3)
    for run in runs:
        assert (run / "done.json").exists() and (run / "progress.txt").read_text().split() == [*"0123456789"]
        starts = (run / "attempts.txt").read_text().splitlines()
        assert json.loads((run / "done.json").read_text())["attempts"] == len(starts)


def kill_at_random(start_worker, out: Path, storage: str, cells: int, kills: int) -> None:
    """Three workers; one after the other dies by SIGKILL, half of them with their subprocess, and is replaced."""
    dice = random.Random(0)
    workers = [start_worker(out, storage, cells) for _ in range(3)]
    killed = 0
    deadline = time.monotonic() + 120
    while any(worker.poll() is None for worker in workers):
        assert time.monotonic() < deadline, "the workers never end"
        time.sleep(dice.uniform(0.2, 0.8))
        at_work = [worker for worker in workers if worker.poll() is None]
        if killed < kills and at_work and (out / "runs").exists():
            victim = dice.choice(at_work)
            (os.killpg if dice.random() < 0.5 else os.kill)(victim.pid, signal.SIGKILL)
            killed += 1
            workers.append(start_worker(out, storage, cells))
    last = start_worker(out, storage, cells)
    assert last.wait(60) == 0, last.stdout.read()
    assert killed == kills


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_cells_are_done_once_though_workers_are_killed(start_worker, tmp_path, kind):
    storage = {"sqlite": f"sqlite:///{tmp_path}/study.db", "journal": f"journal:{tmp_path}/study.log"}[kind]
    kill_at_random(start_worker, tmp_path / "out", storage, 9, 6)
    check_all_done_once(tmp_path / "out", storage, 9)


@pytest.fixture
def postgres(tmp_path):
    """A server of its own on a socket in tmp_path."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql: apt-get install postgresql")
    pytest.importorskip("psycopg2")
    home = Path("/tmp") / f"pg{os.getpid()}"  # a socket's path must be short, and the server's user must reach it
    home.mkdir()
    shutil.chown(home, "postgres") if os.getuid() == 0 else None

    def call(*command: str) -> None:
        prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        subprocess.run(
            [*prefix, str(POSTGRES[-1] / command[0]), *command[1:]], check=True, capture_output=True, cwd=home
        )

    call("initdb", "-D", f"{home}/data", "-A", "trust", "-U", "test")
    call("pg_ctl", "-D", f"{home}/data", "-w", "-o", f"-k {home} -c listen_addresses=''", "-l", f"{home}/log", "start")
    yield f"postgresql://test@/postgres?host={home}"
    call("pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop")
    shutil.rmtree(home)


@pytest.mark.slow
def test_cells_are_done_once_on_postgresql(start_worker, tmp_path, postgres):
    kill_at_random(start_worker, tmp_path / "out", postgres, 9, 6)
    check_all_done_once(tmp_path / "out", postgres, 9)


def test_two_workers_share_the_cells(start_worker, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    workers = [start_worker(tmp_path / "out", storage, 4) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    check_all_done_once(tmp_path / "out", storage, 4)
    hands = [json.loads(file.read_text())["worker"] for file in (tmp_path / "out" / "cells").glob("*.json")]
    assert len(set(hands)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on(start_worker, tmp_path, number):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    worker = start_worker(out, storage, 2)
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/shared/0/progress.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(worker.pid, number)  # as a terminal does, to the run as well
    assert worker.wait(30) == 130
    stopped = len((out / "runs/shared/0/progress.txt").read_text().split())
    assert stopped < 10
    time.sleep(0.3)
    assert len((out / "runs/shared/0/progress.txt").read_text().split()) == stopped
    assert {state for _, state in states(storage)} == {TrialState.WAITING}
    assert start_worker(out, storage, 2).wait(60) == 0
    check_all_done_once(out, storage, 2)


def test_a_failed_cell_is_kept_with_its_log_and_the_others_go_on(start_worker, tmp_path):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    assert start_worker(out, storage, 3, "broken").wait(60) == 1
    assert Counter(state for _, state in states(storage)) == {TrialState.COMPLETE: 2, TrialState.FAIL: 1}
    failed = json.loads((out / "cells" / "k=1,seed=0.json").read_text())
    assert failed["state"] == "failed" and failed["metrics"] == {}
    assert failed["error"]["step"] == "own/1" and "exit code 3" in failed["error"]["message"]
    assert failed["error"]["log_tail"] == ["the script is broken"]
    assert start_worker(out, storage, 3).wait(60) == 1  # a failed cell stays failed
    assert start_worker(out, storage, 3, "retry").wait(60) == 0
    assert dict(states(storage))["k=1,seed=0"] == TrialState.COMPLETE
    assert json.loads((out / "cells" / "k=1,seed=0.json").read_text())["state"] == "done"


def test_a_step_whose_process_is_killed_is_tried_again_and_then_failed(start_worker, tmp_path):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    worker = start_worker(out, storage, 1)
    killed = 0
    while worker.poll() is None:
        found = subprocess.run(["pgrep", "-P", str(worker.pid)], capture_output=True, text=True).stdout.split()
        for pid in found:
            with suppress(FileNotFoundError, ProcessLookupError):  # gone since it was listed
                if killed < 3 and "work_slowly" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(int(pid), signal.SIGKILL)
                    killed += 1
        time.sleep(0.01)
    assert worker.returncode == 1 and killed == 3
    error = json.loads((out / "cells" / "k=0,seed=0.json").read_text())["error"]
    assert error["message"] == "fit ended: killed by SIGKILL 3 times (out of memory?)"


@pytest.mark.parametrize("lost", ["cells/k=0,seed=0.json", "runs/own/0/done.json"])
def test_a_cell_of_which_a_file_was_removed_is_run_again(start_worker, tmp_path, lost):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    assert start_worker(out, storage, 1).wait(60) == 0
    (out / lost).unlink()
    assert start_worker(out, storage, 1).wait(60) == 0
    assert (out / lost).exists()


def test_the_record_of_a_failed_cell_is_made_anew(start_worker, tmp_path):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    assert start_worker(out, storage, 1, "silent").wait(60) == 1
    (out / "cells" / "k=0,seed=0.json").unlink()
    assert start_worker(out, storage, 1, "silent").wait(60) == 1
    assert json.loads((out / "cells" / "k=0,seed=0.json").read_text())["state"] == "failed"


def test_a_folder_may_be_moved(start_worker, tmp_path):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    assert start_worker(out, storage, 1).wait(60) == 0
    out.rename(tmp_path / "elsewhere")
    assert start_worker(tmp_path / "elsewhere", storage, 1).wait(60) == 0


def test_a_step_that_ended_well_without_its_figure_is_run_again_by_a_retry(start_worker, tmp_path):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    assert start_worker(out, storage, 1, "silent").wait(60) == 1
    record = json.loads((out / "cells" / "k=0,seed=0.json").read_text())
    assert record["error"]["step"] == "own/0" and "figure is missing" in record["error"]["message"]
    assert start_worker(out, storage, 1, "retry").wait(60) == 0


def test_a_study_of_another_grid_is_refused(start_worker, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    assert start_worker(tmp_path / "out", storage, 1).wait(60) == 0
    other = start_worker(tmp_path / "elsewhere", storage, 1)
    assert other.wait(60) != 0
    assert "already holds a sweep 'hand_made' with another folder" in other.stdout.read()


def test_a_storage_that_cannot_be_reached_says_so():
    with pytest.raises(ConnectionError, match=r"postgresql\S*://\.\.\.@127\.0\.0\.1:9/x cannot .*onnection refused"):
        open_storage("postgresql://me:secret@127.0.0.1:9/x")
    with pytest.raises(ConnectionError, match="a queue in memory is seen by one process alone"):
        open_storage("sqlite://")
    with pytest.raises(ConnectionError, match=r"--storage nonsense cannot be used"):
        open_storage("nonsense")


def test_a_storage_that_is_lost_on_the_way_says_what_to_do(start_worker, tmp_path):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "out"
    worker = start_worker(out, storage, 3)
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/shared/0/progress.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("DROP TABLE trial_params")
        connection.execute("DROP TABLE trials")
    assert worker.wait(60) == 1
    assert "the queue's storage failed; what is done stays done" in worker.stdout.read()
