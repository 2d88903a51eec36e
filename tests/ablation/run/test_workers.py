"""Workers that are killed, stopped or that fail: every cell is done exactly once, on every kind of storage.

A worker is killed at a moment that the test chooses: where it is in this process, by an exception that nothing but the
end of a process resembles; where it is a process, by SIGKILL, while its step's script waits for a file.
"""

import os
import signal
import sqlite3
import threading
from collections import Counter

import pytest

from lit_blip2.ablation.run import cells, step
from lit_blip2.ablation.run.locks import is_locked
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.storage import open_storage
from lit_blip2.ablation.run.waiting import STORAGE_ERRORS
from lit_blip2.commands.sweep import main
from tests.ablation.run.hand_made import WAIT_SECONDS, HandMade, until

pytestmark = pytest.mark.run


class KilledError(BaseException):
    """In place of SIGKILL: no clean-up that asks for an Exception runs, and locks go."""


def dies(*arguments, **named):
    raise KilledError


def dies_behind(function):
    def last(*arguments, **named):
        function(*arguments, **named)
        raise KilledError

    return last


# In the order of a cell's life: what a worker calls last. "behind": it has returned.
MOMENTS = {
    "it has taken the cell": (Queue, "record", dies),
    "it starts a step": (step, "write_config", dies),
    "a step ends": (step, "run_process", dies_behind),
    "a step's record is written": (step, "_record_done", dies_behind),
    "it adds up the metrics": (cells, "cell_metrics", dies),
    "it writes the cell's record": (cells, "write", dies),
    "the queue has not heard of the end": (Queue, "end", dies),
}


def kill_at_every_moment(sweep: HandMade, monkeypatch) -> None:
    for owner, name, how in MOMENTS.values():
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, how(getattr(owner, name)) if how is dies_behind else how)
            with pytest.raises(KilledError):
                sweep.work()
    assert sweep.run(workers=3) == 0
    sweep.check_all_done_once()


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_cells_are_done_once_at_whatever_moment_workers_are_killed(make, tmp_path, monkeypatch, kind):
    storage = {"sqlite": f"sqlite:///{tmp_path}/study.db", "journal": f"journal:{tmp_path}/study.log"}[kind]
    kill_at_every_moment(make(9, storage=storage), monkeypatch)


@pytest.mark.slow
def test_cells_are_done_once_on_postgresql(make, monkeypatch, postgres):
    kill_at_every_moment(make(9, storage=postgres.url), monkeypatch)


@pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["with its run", "alone"])
def test_a_killed_process_s_run_goes_on_where_it_stopped(make, start, monkeypatch, kill):
    """Alone, it leaves a run that is still training: the next worker waits for it."""
    sweep = make(1, shared_0="waits")
    run, started = sweep.folder.run("shared/0"), start(sweep)
    until((run / "pid.txt").exists)
    kill(started.pid, signal.SIGKILL)
    started.wait()
    assert sweep.progress("shared/0") == [*"01234"] and not sweep.folder.done("shared/0").exists()
    assert is_locked(sweep.folder.lock("shared/0")) == (kill is os.kill)
    blocked, seen = cells._blocked, []
    monkeypatch.setattr(cells, "_blocked", lambda *of: seen.append(blocked(*of)) or seen[-1])
    next_worker = threading.Thread(target=sweep.work)
    next_worker.start()
    until(lambda: seen)
    (run / "go").touch()
    next_worker.join(WAIT_SECONDS)
    assert seen[0] == (kill is os.kill)
    sweep.check_all_done_once()
    assert len((run / "attempts.txt").read_text().splitlines()) == 2


def test_two_processes_share_the_cells(make, start):
    sweep = make(4, shared_0="waits", shared_1="waits")
    workers = [start(sweep) for _ in range(2)]
    for run in ("shared/0", "shared/1"):  # each waits in one of them
        until((sweep.folder.run(run) / "pid.txt").exists)
    for run in ("shared/0", "shared/1"):
        (sweep.folder.run(run) / "go").touch()
    assert [worker.wait(WAIT_SECONDS) for worker in workers] == [0, 0]
    sweep.check_all_done_once()
    assert len({sweep.record(k)["worker"] for k in range(4)}) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on(make, number):
    sweep = make(2, shared_0="waits")
    run = sweep.folder.run("shared/0")

    def interrupt() -> None:
        until((run / "pid.txt").exists)
        os.kill(os.getpid(), number)

    before, thread = signal.getsignal(number), threading.Thread(target=interrupt)
    thread.start()
    assert sweep.run() == 130
    thread.join()
    assert signal.getsignal(number) == before
    with pytest.raises(ProcessLookupError):
        os.kill(int((run / "pid.txt").read_text()), 0)
    assert sweep.progress("shared/0") == [*"01234"] and not sweep.folder.failed("shared/0").exists()
    assert {state for _, state in sweep.states()} == {"WAITING"}
    (run / "go").touch()
    assert sweep.run() == 0
    sweep.check_all_done_once()


def test_a_run_that_an_interrupt_has_ended_too_has_not_failed(make, monkeypatch):
    """Ctrl-C reaches every process of a terminal."""
    sweep, interrupted = make(1), []
    sweep.queue()
    monkeypatch.setattr(step, "run_process", lambda *_: interrupted.append(True) or (-signal.SIGINT, 0.0))
    with pytest.raises(step.StoppedError):
        step.run_step(sweep.plan.steps["own/0"], sweep.folder, {}, lambda: bool(interrupted))
    assert not sweep.folder.failed("own/0").exists()


def test_a_failed_cell_is_kept_with_its_log_and_the_others_go_on(make):
    sweep = make(3, own_1="broken")
    assert sweep.run() == 1
    assert Counter(state for _, state in sweep.states()) == {"COMPLETE": 2, "FAIL": 1}
    failed = sweep.record(1)
    assert failed["state"] == "failed" and failed["metrics"] == {}
    assert failed["error"]["step"] == "own/1" and "exit code 3" in failed["error"]["message"]
    assert failed["error"]["log_tail"] == ["the script is broken"]
    sweep.fates.clear()
    assert sweep.run() == 1  # a failed cell stays failed
    assert sweep.run(again=True) == 0
    assert dict(sweep.states())["k=1,seed=0"] == "COMPLETE" and sweep.record(1)["state"] == "done"


def test_a_step_whose_process_is_killed_is_tried_again_and_then_failed(make):
    sweep = make(1, shared_0="killed")
    assert sweep.run() == 1
    assert sweep.record(0)["error"]["message"] == "fit ended: killed by SIGKILL 3 times (out of memory?)"
    assert len((sweep.folder.run("shared/0") / "attempts.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize("lost", ["cells/k=0,seed=0.json", "runs/own/0/done.json", "runs/own/0/metrics.json"])
def test_a_cell_of_which_a_file_was_removed_is_run_again(make, lost):
    sweep = make(1)
    assert sweep.run() == 0
    (sweep.folder.root / lost).unlink()
    assert sweep.run() == 0
    assert (sweep.folder.root / lost).exists()


def test_a_record_of_another_cell_is_made_anew(make):
    sweep = make(2)
    assert sweep.run() == 0
    sweep.folder.cell("k=1,seed=0").write_text(sweep.folder.cell("k=0,seed=0").read_text())
    assert sweep.run() == 0 and sweep.record(1)["name"] == "k=1,seed=0"
    starts = (sweep.folder.run("own/1") / "attempts.txt").read_text().splitlines()
    assert len(starts) == 1  # its steps had ended


def test_the_record_of_a_failed_cell_is_made_anew(make):
    sweep = make(1, own_0="silent")
    assert sweep.run() == 1
    sweep.folder.cell("k=0,seed=0").unlink()
    assert sweep.run() == 1
    assert sweep.record(0)["state"] == "failed"


def test_a_folder_may_be_moved(make, tmp_path):
    sweep = make(1)
    assert sweep.run() == 0
    sweep.folder.root.rename(tmp_path / "elsewhere")
    assert make(1, "elsewhere").run() == 0


def test_a_step_that_ended_well_without_its_metric_is_run_again_by_a_retry(make):
    sweep = make(1, own_0="silent")
    assert sweep.run() == 1
    error = sweep.record(0)["error"]
    assert error["step"] == "own/0" and "loss/total is missing" in error["message"]
    sweep.fates.clear()
    assert sweep.run(again=True) == 0


def test_a_study_of_another_folder_is_refused(make):
    assert make(1).run() == 0
    with pytest.raises(ValueError, match="already holds a sweep 'hand_made' with another folder"):
        make(1, "elsewhere").run()


def test_a_storage_that_cannot_be_reached_says_so():
    with pytest.raises(ConnectionError, match=r"postgresql\S*://\.\.\.@127\.0\.0\.1:9/x cannot .*onnection refused"):
        open_storage("postgresql://me:secret@127.0.0.1:9/x")
    with pytest.raises(ConnectionError, match="a queue in memory is seen by one process alone"):
        open_storage("sqlite://")
    with pytest.raises(ConnectionError, match=r"--storage nonsense cannot be used"):
        open_storage("nonsense")


@pytest.mark.parametrize("holds", [[], ["mine.txt"]])
def test_a_sweep_that_cannot_start_leaves_nothing(holds, tmp_path, capsys):
    out = tmp_path / "out"
    for name in holds:
        out.mkdir()
        (out / name).touch()
    grid = "ablations/objectives.yaml"
    assert main(["--config", grid, "--out", str(out), "--storage", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: --storage nonsense cannot be used")
    assert out.exists() == bool(holds) and all((out / name).exists() for name in holds)


def test_a_storage_that_is_lost_on_the_way_ends_the_sweep_and_its_run(make, tmp_path):
    sweep = make(3, shared_0="waits")
    run = sweep.folder.run("shared/0")

    def lose() -> None:
        until((run / "pid.txt").exists)
        with sqlite3.connect(tmp_path / "study.db") as connection:
            connection.execute("DROP TABLE trial_params")
            connection.execute("DROP TABLE trials")
        (run / "go").touch()

    thread = threading.Thread(target=lose)
    thread.start()
    with pytest.raises(STORAGE_ERRORS):
        sweep.run()
    thread.join()
