"""A storage that goes away for a while is waited for; what was lost on the way is neither done twice nor lost."""

import os
import shutil
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError, PendingRollbackError

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run import journal, step, waiting
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.storage import lost_storage, open_storage
from lit_blip2.ablation.run.waiting import Waiting, is_gone, reason
from lit_blip2.ablation.schema import DONE
from tests.ablation.run.hand_made import until

GONE = OperationalError("SELECT 1", {}, sqlite3.OperationalError("the disk is away"))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0.01)


@pytest.fixture(params=["sqlite:///{}/study.db", "journal:{}/study.log"], ids=["sqlite", "journal"])
def queue(make, tmp_path, request):
    return make(2, storage=request.param.format(tmp_path)).queue()


def lose(monkeypatch, queue: Queue, name: str, before: int = 0, behind: int = 0) -> None:
    """A call of the storage fails so often before it is carried out, then behind it."""
    carried_out, left = getattr(queue.storage.storage, name), [*[False] * before, *[True] * behind]

    def call(*arguments, **named):
        if not left:
            return carried_out(*arguments, **named)
        if left.pop(0):
            carried_out(*arguments, **named)
        raise StorageInternalError("of Optuna") from GONE

    monkeypatch.setattr(queue.storage.storage, name, call)


@pytest.mark.parametrize("lost", [{"before": 2}, {"behind": 1}])
def test_a_trial_is_made_once(queue, monkeypatch, lost, capsys):
    number = len(queue.trials())
    lose(monkeypatch, queue, "create_new_trial", **lost)
    queue.study.enqueue_trial({}, user_attrs={"cell": "another"})
    assert [trial.user_attrs["cell"] for trial in queue.trials()[number:]] == ["another"]
    assert "storage is gone ((sqlite3.OperationalError) the disk is away): waiting" in capsys.readouterr().out


@pytest.mark.parametrize("lost", [{"before": 2}, {"behind": 1}])
def test_a_trial_ends_once(queue, monkeypatch, lost, capsys):
    trial_id = queue.trial_id(0)
    assert queue._starts(trial_id)
    lose(monkeypatch, queue, "set_trial_state_values", **lost)
    queue.end(trial_id, DONE, 0.5)
    assert [(trial.state, trial.value) for trial in queue.trials((TrialState.COMPLETE,))] == [
        (TrialState.COMPLETE, 0.5)
    ]
    assert "the queue's storage is back after 0 s" in capsys.readouterr().out
    with pytest.raises(UpdateFinishedTrialError):
        queue.end(trial_id, DONE, 0.5)


def test_what_is_wrong_with_a_storage_that_is_there_is_not_waited_for(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("DROP TABLE studies")
    with pytest.raises(StorageInternalError) as error:
        storage.create_new_study([StudyDirection.MINIMIZE])
    assert "no such table" in lost_storage(error.value)


def test_a_session_in_which_the_storage_went_is_told_by_its_first_error():
    """Optuna asks a second time in it, whatever the first error was."""
    try:
        try:
            raise GONE
        except OperationalError:
            raise PendingRollbackError("Can't reconnect")  # noqa: B904
    except PendingRollbackError as error:
        optunas = StorageInternalError("during the commit")
        optunas.__cause__ = error
    assert is_gone(optunas) and reason(optunas) == "(sqlite3.OperationalError) the disk is away"


def test_the_waiting_ends(queue, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.03)
    lose(monkeypatch, queue, "get_trial", before=1000)
    with pytest.raises(StorageInternalError) as error:
        queue.storage.get_trial(queue.trial_id(0))
    assert "start the same command again when it is back ((sqlite3.OperationalError) the disk" in lost_storage(
        error.value
    )


@pytest.mark.parametrize("where", ["workers", "table"])
def test_a_sweep_that_waits_for_its_storage_can_be_interrupted(make, tmp_path, monkeypatch, where):
    sweep = make(3)
    queue = sweep.queue()
    monkeypatch.setattr(sweep, "queue", lambda again: queue)
    lose(monkeypatch, queue, "get_all_trials", before=1_000_000)
    if where == "table":
        monkeypatch.setattr("lit_blip2.ablation.run.progress.Progress.show_until", lambda self, _: self.table())

    def interrupt() -> None:
        until(lambda: queue.storage._gone_since is not None)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert sweep.run() == 130
    thread.join()


def test_a_file_that_is_gone_is_not_begun_anew(queue, tmp_path, monkeypatch):
    """Neither by connections and streams that are open, nor by new ones."""
    (file,) = tmp_path.glob("study.*[bg]")
    away = file.rename(tmp_path / "away")
    thread = threading.Thread(target=queue.put_again, args=[["k=0,seed=0"]])
    thread.start()
    until(lambda: queue.storage._gone_since is not None)
    assert not file.exists()
    away.rename(file)
    thread.join()
    assert len(queue.trials()) == 3


def journal_lines(file: Path) -> int:
    return len(list(journal.Journal(str(file)).read_logs(0)))


def test_no_half_line_stays_in_a_journal(tmp_path, monkeypatch):
    """Of a machine that died, or of a disk that is full: Optuna cannot read what stands behind one."""
    file = tmp_path / "a.log"
    storage = open_storage(f"journal:{file}")
    study = storage.create_new_study([StudyDirection.MINIMIZE], "a")
    with file.open("ab") as stream:
        stream.write(b'{"op_code":4,"stu')
    storage.create_new_trial(study)
    assert journal_lines(file) == 2 and file.read_bytes().count(b"\n") == 2
    whole = file.read_bytes()
    monkeypatch.setattr(journal.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        journal.Journal(str(file)).append_logs([{"op_code": 4}])
    assert file.read_bytes() == whole


def test_a_journal_of_a_killed_worker_is_free_at_once(tmp_path):
    """Optuna's own lock would be waited for half a minute."""
    (tmp_path / "a.log.lock").symlink_to(tmp_path / "a.log")
    open_storage(f"journal:{tmp_path}/a.log").create_new_study([StudyDirection.MINIMIZE], "a")


def test_folders_of_one_sweep_are_told_apart_although_the_disk_was_full(make, tmp_path, monkeypatch):
    sweep = make(1)

    def full(*_: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(Path, "write_text", full)
        sweep.queue()
    assert not (Folder(sweep.folder.root).root / "folder_id.txt").exists()
    assert isinstance(sweep.queue().storage, Waiting)


@pytest.mark.parametrize("url", ["sqlite:///{}/study.db", "journal:{}/study.log"])
def test_a_storage_whose_disk_is_full_is_waited_for(make, small_disk, url):
    disk = small_disk(2**21)
    sweep = make(4, storage=url.format(disk))
    queue = sweep.queue()
    sweep.queue = lambda again=False: queue
    rest = shutil.disk_usage(disk).free
    (disk / "much.bin").write_bytes(bytes(rest))
    thread = threading.Thread(target=sweep.work)
    thread.start()
    until(lambda: queue.storage._gone_since is not None)
    (disk / "much.bin").unlink()
    thread.join()
    sweep.check_all_done_once()


def test_a_step_that_filled_the_disk_has_not_failed(make, small_disk, monkeypatch):
    """The sweep ends and says why; it goes on as soon as there is room."""
    disk = small_disk(2**21)
    monkeypatch.setattr(step, "LEAST_FREE", 2**18)
    sweep = make(2, out=f"{disk}/out", storage=f"sqlite:///{disk}/study.db", shared_0="fills")
    with pytest.raises(OSError, match=r"0 MiB are free on the disk of .*/out, and a step needs .*: make room"):
        sweep.run()
    assert not list(sweep.folder.root.rglob("failed.json")) and not sweep.folder.cells()
    (sweep.folder.run("shared/0") / "much.bin").unlink()
    sweep.fates.clear()
    assert sweep.run() == 0
    sweep.check_all_done_once()
