"""Where a run that was stopped lies, by the loggers that it has."""

import logging
import os

import pytest
import torch
import yaml
from jsonargparse import Namespace

from lit_blip2 import go_on
from lit_blip2.runs import CONFIG, HELD, Left, hold


def logger(**settings) -> Namespace:
    return Namespace(class_path="x", init_args=Namespace(settings))


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


def test_a_job_started_once_more_whose_run_left_nothing_begins_anew(monkeypatch, tmp_path, caplog):
    """Not the run of yesterday, which is finished, is this job's."""
    finished = tmp_path / "runs/x/version_0"
    for folder in (finished, tmp_path / "runs/x/version_1"):
        hold(folder).release()
        (folder / HELD).touch()
    (finished / CONFIG).write_text("")
    os.utime(finished / CONFIG, (1, 1))
    left = Left(finished, finished / "last.ckpt", 6, True)
    monkeypatch.setattr(go_on, "newest_of", lambda *_: left)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    given = config(logger(save_dir=str(tmp_path / "runs"), name="x", version=None))
    with caplog.at_level(logging.INFO):
        assert go_on.go_on(given, {}, resume=False) is None and given.ckpt_path is None
    assert f"a run that was begun later, in {tmp_path}/runs/x/version_1, has left nothing" in caplog.text
    with pytest.raises(SystemExit, match="0"):
        go_on.go_on(given, {}, resume=True)
    (tmp_path / "runs/x/version_1" / HELD).unlink()  # it was killed before it had a folder
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    for job, ends in (("5", True), (None, True), ("4", False)):
        monkeypatch.setattr(go_on, "newest_of", lambda *_, job=job: left._replace(job=job))
        with pytest.raises(SystemExit) if ends else caplog.at_level(logging.INFO):
            assert go_on.go_on(given, {}, resume=False) is None
    assert "is another job's: a new one begins" in caplog.text


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
