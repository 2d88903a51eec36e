"""A sweep's folder and storage that somebody else has sent: nothing outside of the folder is written or removed."""

import json
import os
import sqlite3
import struct
import subprocess
import sys

import pytest

from lit_blip2.ablation.folder import SweepError, read
from lit_blip2.ablation.run import begin
from lit_blip2.ablation.run.storage import SUPER_JOURNAL, open_storage
from lit_blip2.ablation.schema import Done
from lit_blip2.commands.sweep import main
from lit_blip2.contents import DataError
from lit_blip2.links import check_links

SWEEP = ["--config", "ablations/objectives.yaml", "--out"]
JOURNAL = bytes.fromhex("d9d505f920a163d7")  # also the beginning of every rollback journal


@pytest.fixture
def thesis(tmp_path):
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine/thesis.tex"
    file.write_text("years")
    return file


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """A sweep that is not refused would train."""

    def refuse(*_):
        raise ValueError("the sweep begins")

    monkeypatch.setattr(begin, "_prepare", refuse)


@pytest.mark.parametrize(
    "place",
    ["study.db", "log.txt", "runs/stage1/itc=on,seed=0/attempts.txt", "configs", "locks", "tensorboard", "slurm"],
)
def test_nothing_is_written_through_a_link(tmp_path, thesis, place, capsys):
    link = tmp_path / "sent" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(thesis if "." in place else thesis.parent)
    assert main([*SWEEP, str(tmp_path / "sent")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {link} leads out of {tmp_path / 'sent'}, to {thesis.parent}")
    assert thesis.read_text() == "years" and list(thesis.parent.iterdir()) == [thesis]
    assert list(link.parent.iterdir()) == [link]


def test_links_within_a_sweep_and_to_it_are_followed(make, tmp_path):
    """As of a checkpoint to the one beside it."""
    sweep = make(1)
    link = sweep.folder.run("own/0") / "last.ckpt"
    link.parent.mkdir(parents=True)
    link.symlink_to("step=3.ckpt")
    (tmp_path / "other").symlink_to(sweep.folder.root)
    check_links(tmp_path / "other")


def put_journal(database, names):
    """A rollback journal of no pages beside a database, which is rolled back when it is opened; it may name a file as
    its super-journal."""
    with database.open("rb") as stream:
        page = struct.unpack(">H", stream.read(18)[16:])[0]
    pages = database.stat().st_size // page
    header = (JOURNAL + struct.pack(">IIIII", 0, 1, pages, 512, page)).ljust(512, b"\0")
    name = str(names).encode()
    end = struct.pack(">I", 0x40000000 // page + 1) + name + struct.pack(">II", len(name), sum(name)) + JOURNAL
    journal = database.with_name(f"{database.name}-journal")
    journal.write_bytes(header + (end if names else b""))
    return journal


def test_a_journal_that_would_have_a_file_removed_is_refused(make, tmp_path, thesis, capsys):
    database = tmp_path / "sent/study.db"
    make(1, out="sent", storage=f"sqlite:///{database}").queue()
    journal = put_journal(database, thesis)
    with pytest.raises(DataError, match=r"study\.db-journal names another journal, and SQLite would remove the file"):
        open_storage(f"sqlite:///{database}")
    assert main([*SWEEP, str(database.parent)]) == 2 and "study.db-journal names another" in capsys.readouterr().err
    assert thesis.read_text() == "years" and journal.exists()
    sqlite3.connect(database).execute("select count(*) from studies")
    assert not thesis.exists(), "the journal of this test does no harm"


def test_a_journal_that_a_killed_worker_left_is_rolled_back(make, tmp_path):
    sweep = make(1, storage=f"sqlite:///{tmp_path}/study.db")
    sweep.queue()
    journal = put_journal(tmp_path / "study.db", None)
    assert not journal.read_bytes().endswith(SUPER_JOURNAL)
    assert len(sweep.queue().trials()) == 1 and not journal.exists()


@pytest.mark.run
@pytest.mark.parametrize("step", ["../../../mine", "/tmp/mine", "own/1"])
def test_retrying_removes_nothing_that_a_record_names(make, thesis, step):
    """Neither outside of the sweep nor the record of another cell's step."""
    sweep = make(2, own_0="broken")
    assert sweep.run() == 1
    kept = thesis.rename(thesis.with_name("done.json"))
    record = sweep.folder.cell("k=0,seed=0")
    record.write_text(record.read_text().replace('"step": "own/0"', f'"step": "{step}"'))
    assert step in record.read_text()
    sweep.fates.clear()
    if step == "own/1":
        before = sweep.folder.done("own/1").stat()
        assert sweep.run(again=True) == 0 and sweep.folder.done("own/1").stat() == before
    else:
        with pytest.raises(SweepError, match=r"k=0,seed=0\.json: error\.step is .* leads out of the sweep's folder"):
            sweep.run(again=True)
    assert kept.read_text() == "years"


@pytest.mark.parametrize("cell", ["../../mine/thesis", "unknown", 5, ["k=0,seed=0"], {"k": 0}, None])
def test_a_storage_that_names_another_cell_is_refused(make, thesis, cell):
    sweep = make(1)
    sweep.queue().study.enqueue_trial({}, user_attrs={} if cell is None else {"cell": cell})
    for again in (False, True):
        with pytest.raises(SweepError, match=r"trial 1 is of cell .*, which is no cell of this sweep: remove"):
            sweep.run(again=again)
    assert thesis.exists()


@pytest.mark.run
@pytest.mark.parametrize(
    "place", ["locks/begin.lock", "runs/stage1/itc=on,seed=0/log.txt", "runs/stage1/itc=on,seed=0/attempts.txt"]
)
def test_a_fifo_in_a_sweeps_folder_is_refused_before_anything_is_opened(tmp_path, place):
    """Whoever opens one waits for somebody at its other end, whatever signal comes."""
    fifo = tmp_path / "sent" / place
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "lit_blip2", "sweep", *SWEEP, str(tmp_path / "sent"), "--retry-failed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith(
        f"error: {fifo} is no regular file but a FIFO, which may have"
    )
    assert list(fifo.parent.iterdir()) == [fifo]


def done(**changes):
    time = "2026-01-01T00:00:00Z"
    plain = {
        "key": "a",
        "seconds": 1.0,
        "steps": 1,
        "peak_memory_gib": 1.0,
        "began": time,
        "ended": time,
        "attempts": 1,
    }
    return json.dumps(plain | changes)


@pytest.mark.parametrize(
    "path",
    ["/proc/kmsg", "//**", "/**", "//proc/kmsg", "/a/../proc/kmsg", "../../x", "..", "/dev/*.txt", "/sys/*/", "/x/*a/b"]
    + ["/x/**/", "/x/*/../..", "a//b", "./a", "", "a\0b", "../x (installed)", "a/b (installed)", "/dev", "/x/"],
)
def test_a_record_of_what_was_read_names_files_alone(tmp_path, path):
    file = tmp_path / "done.json"
    file.write_text(done(reads={path: "x"}))
    with pytest.raises(SweepError, match=r"done\.json: reads\..* is no path of a file that a step could have read"):
        read(file, Done)


@pytest.mark.parametrize(
    "path",
    ["/home/me/a.py", "mine/words.txt", "mine/lists/*.txt", "mine/by_language/*/", "*.json", "scikit-learn (installed)"]
    + ["/data/a*b.txt", "..a", "a (installed).txt", "/x/*", "/development/a", "/*.txt"],
)
def test_what_a_step_has_read_is_such_a_path(tmp_path, path):
    file = tmp_path / "done.json"
    file.write_text(done(reads={path: "x"}))
    assert read(file, Done).reads == {path: "x"}
