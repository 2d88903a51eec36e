"""Where a run that was stopped lies, by the loggers that it has."""

import logging
import os
import socket
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace

from lit_blip2 import go_on
from lit_blip2.contents import DataError
from lit_blip2.loggers import folders, places
from lit_blip2.runs import CONFIG, JOB, Left, hold
from lit_blip2.stopping import job_name

CLOCK = count(1_700_000_000)


def logger(**settings) -> Namespace:
    return Namespace(class_path="CSVLogger", init_args=Namespace(settings))


def config(loggers) -> Namespace:
    return Namespace(ckpt_path=None, trainer=Namespace(logger=loggers, max_steps=6))


@pytest.mark.parametrize("several", [False, True])
def test_each_logger_goes_on_in_the_runs_folder(monkeypatch, tmp_path, several):
    left = Left(tmp_path / "runs/x/version_3", tmp_path / "last.ckpt", 4, False)
    looked = []
    monkeypatch.setattr(go_on, "newest_of", lambda dumped, folder, steps: looked.append(folder) or left)
    own = [logger(save_dir="runs", name="x", version=None) for _ in range(1 + several)]
    given = config(own if several else own[0])
    assert go_on.go_on(given, {}, resume=True) == left and given.ckpt_path == str(left.checkpoint)
    assert [str(folder) for folder in looked] == ["runs/x"]
    assert all(each.init_args.version == "version_3" for each in own)


def test_a_tracker_has_no_folder_and_no_version_of_a_runs():
    """W&B would take a version for the name of one of its own runs."""
    tracker = Namespace(class_path="WandbLogger", init_args=Namespace(save_dir="runs", name="x", version=None))
    own = logger(save_dir="runs", name="x", version="version_2")
    assert places([tracker, own]) == [own.init_args] and folders([tracker, own]) == [Path("runs/x/version_2")]
    assert places(tracker) == folders(tracker) == folders(logger(save_dir="runs", name="x", version=None)) == []


def test_a_step_goes_on_in_its_own_folder_and_says_from_which_step(run):
    folder = run(4, None)
    start, where = folder / "checkpoints/last.ckpt", dict(save_dir=str(folder.parents[1]), name="x")
    given = config(logger(**where, version="version_0"))
    given.ckpt_path = str(start)
    assert go_on.own_run(given) == Left(folder, start, 4, False)
    given.trainer.logger.init_args.version = "version_1"
    assert go_on.own_run(given) is None


@pytest.fixture
def run(tmp_path):
    """Make a run in runs/x, begun after those before it: of a job or of nobody, at a step of 6; None: it has left no
    checkpoint."""

    def make(step: int | None, job: str | None) -> Path:
        folder = tmp_path / "runs/x" / f"version_{len(list(tmp_path.glob('runs/x/*')))}"
        folder.mkdir(parents=True)
        (folder / CONFIG).write_text("lr: 1\n")
        os.utime(folder / CONFIG, (at := next(CLOCK), at))
        if job:
            (folder / JOB).write_text(f"{job}\n")
        if step is not None:
            (folder / "checkpoints").mkdir()
            torch.save({"state_dict": {}, "global_step": step, "config": "lr: 1"}, folder / "checkpoints/last.ckpt")
        return folder

    return make


@pytest.fixture
def started_again(monkeypatch, tmp_path, caplog):
    """A job's fit, started once more: the run it goes on with, or the status it ends with, and what it said."""

    def start(job: str | None, resume: bool = False, **given) -> tuple[Path | int | None, str]:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        monkeypatch.setenv("SLURM_JOB_ID", job or "")
        asked = config(logger(save_dir=str(tmp_path / "runs"), name="x", version=None))
        asked.update(Namespace(given))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            try:
                left = go_on.go_on(asked, {"lr": 1}, resume)
            except SystemExit as end:
                return end.code, caplog.text
        assert left is None or asked.ckpt_path == str(left.checkpoint)
        return left and left.run, caplog.text

    return start


def test_a_job_started_once_more_goes_on_with_its_own_run_alone(run, started_again):
    first, second = run(4, "slurm 5"), run(5, "slurm 6")
    run(3, None)
    assert started_again("5")[0] == first and started_again("6")[0] == second
    assert started_again("5", resume=True)[0] == first
    found, said = started_again("7")
    assert found is None and "no run of this job (slurm 7) has left a checkpoint in " in said
    assert f"an unfinished run of these settings lies in {second.parent / 'version_2'}" in said
    assert started_again(None)[0] is None


def test_a_copy_of_a_jobs_run_is_not_gone_on_with(run, started_again):
    own = run(5, "slurm 5")
    run(3, "slurm 5")  # a copy made in between, with job.txt, and written later
    assert started_again("5")[0] == own
    run(6, "slurm 5")
    assert started_again("5")[0] == 0


def test_a_job_started_once_more_ends_where_its_own_run_is_finished_and_there_alone(run, started_again, tmp_path):
    finished = run(6, "slurm 5")
    run(4, None)
    (tmp_path / "runs/x/version_2").mkdir()  # of somebody else, without a config
    hold(tmp_path / "runs/x/version_2").release()
    found, said = started_again("5")
    assert found == 0 and f"the run of this job is finished: {finished}, at step 6 of 6" in said
    found, said = started_again("4")
    assert found is None and ": a new one begins" in said


def test_a_job_started_once_more_whose_run_left_nothing_begins_anew(run, started_again):
    run(6, None)
    run(None, "slurm 5")
    assert started_again("5")[0] is None


def test_a_job_started_once_more_goes_on_with_its_own_run_before_a_checkpoint_that_it_is_given(run, started_again):
    own = run(4, "slurm 5")
    run(6, None)
    found, said = started_again("5", ckpt_path="other.ckpt")
    assert found == own and f"going on with {own}, at step 4 of 6, the run of this job, and not with other" in said
    found, said = started_again("6", ckpt_path="other.ckpt")
    assert found is None and "a new one begins, from other.ckpt" in said


def test_to_go_on_with_two_runs_is_refused(run, started_again):
    run(4, "slurm 5")
    with pytest.raises(ValueError, match=r"--resume goes on .*, and --ckpt_path with other\.ckpt: leave out one"):
        started_again("5", resume=True, ckpt_path="other.ckpt")


def test_a_job_is_known_by_its_name(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job_name() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    name = job_name()
    assert name.startswith(f"torchrun none {socket.gethostname()} {os.getppid()} ") and name == job_name()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert job_name() == "slurm 7"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert job_name() == "slurm 5_2"


def test_checkpoints_behind_a_link_end_the_going_on_and_not_a_new_run(run, started_again, tmp_path, caplog):
    own = run(4, "slurm 5")
    (own / "checkpoints").rename(tmp_path / "disk")
    (own / "checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(DataError, match=r"last\.ckpt leads out of"):
        started_again("5")
    given = config(logger(save_dir=str(tmp_path / "runs"), name="x", version=None))
    with pytest.raises(DataError, match=r"last\.ckpt leads out of"):
        go_on._newest(given, {"lr": 1}, [], tmp_path / "runs/x", resume=True)
    with caplog.at_level(logging.INFO):
        assert go_on._newest(given, {"lr": 1}, [], tmp_path / "runs/x", resume=False) is None
    assert "last.ckpt leads out of" in caplog.text and caplog.text.rstrip().endswith("A new one begins")


@pytest.mark.parametrize("version", ["version_0", 0, None])
@pytest.mark.parametrize("several", [False, True])
def test_a_new_run_begins_in_no_folder_that_a_logger_names_and_that_holds_one(run, tmp_path, version, several):
    old = run(4, None)
    where = logger(save_dir=str(tmp_path / "runs"), name="x", version=version)
    given = config([where, logger(save_dir=str(tmp_path / "runs"), name="x", version=None)] if several else where)
    if version is None:
        go_on.check_folder(given)
    else:
        with pytest.raises(ValueError, match="version_0 holds a run already, at step 4"):
            go_on.check_folder(given)
    given.ckpt_path = str(old / "checkpoints/last.ckpt")
    go_on.check_folder(given)


def test_without_a_logger_a_new_run_begins_in_no_folder_that_holds_one(run):
    given = config(False)
    given.trainer.default_root_dir = str(run(4, None))
    with pytest.raises(ValueError, match=r"holds a run already, .*--trainer\.default_root_dir"):
        go_on.check_folder(given)
    given.trainer.fast_dev_run = 2
    go_on.check_folder(given)


def test_an_unfinished_run_of_other_settings_is_named_with_what_differs(tmp_path, caplog):
    """Who forgets an argument, or means to change one, learns why a new run begins."""
    settings = {"model": {"init_args": {"optimization": {"lr": 0.002}}}, "trainer": {"max_steps": 20, "devices": 2}}
    run = tmp_path / "runs/x/version_0"
    run.mkdir(parents=True)
    (run / CONFIG).write_text(text := yaml.safe_dump(settings))
    torch.save({"state_dict": {}, "global_step": 11, "config": text}, run / "last.ckpt")
    asked = {"model": {"init_args": {"optimization": {"lr": 0.001}}}, "trainer": {"max_steps": 680, "devices": 1}}
    given = config(logger(save_dir=str(tmp_path / "runs"), name="x", version=None))
    with caplog.at_level(logging.INFO):
        assert go_on.go_on(given, asked, resume=True) is None
    assert "a new one begins. The newest one, " in caplog.text and "version_0, stands at step 11 of 20" in caplog.text
    assert "model.optimization.lr 0.002, here 0.001; trainer.max_steps 20, here 680" in caplog.text
    assert "devices" not in caplog.text
    torch.save({"state_dict": {}, "global_step": 20, "config": text}, run / "last.ckpt")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert go_on.go_on(given, asked, resume=True) is None
    assert caplog.text.rstrip().endswith("a new one begins")


@pytest.mark.parametrize("loggers", [False, None, [], logger(save_dir="runs", name=None)])
def test_without_a_folder_nothing_is_found_and_that_is_told(caplog, loggers):
    with caplog.at_level(logging.INFO):
        assert go_on.go_on(config(loggers), {}, resume=True) is None
    assert "no logger gives these runs a folder" in caplog.text
