"""Which checkpoint of a run's folder is meant, and which run a checkpoint belongs to."""

import os
import threading
import warnings
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock

from lit_blip2.contents import DataError
from lit_blip2.runs import (
    CONFIG,
    HELD,
    JOB,
    PLANNED,
    check_new,
    find_checkpoint,
    hold,
    is_at_end,
    is_held,
    newest_checkpoint,
    newest_of,
    newest_other,
    run_of,
)

CLOCK = count(1_700_000_000)


def save(file: Path, step: int = 0, config: str = "lr: 1", cut: bool = False, **more) -> Path:
    """A checkpoint, written after those before it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"x": torch.zeros(3000)}, "global_step": step, "config": config} | more, file)
    if cut:
        file.write_bytes(file.read_bytes()[:-100])
    os.utime(file, (at := next(CLOCK), at))
    return file


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "opt" / "version_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("lr: 1\nckpt_path: null\n")
    return folder


def test_the_config_beside_it_decides_then_the_step_then_the_time(run):
    save(run / "checkpoints/last.ckpt", step=9, config="lr: 2")
    second = save(run / "checkpoints/last-v1.ckpt", step=4, config="ckpt_path: x\nlr: 1")
    assert find_checkpoint(run) == find_checkpoint(run.parent) == second
    furthest = save(run / "checkpoints/epoch=1-step=6.ckpt", step=6)
    save(run / "checkpoints/step=2.ckpt", step=2)  # as a copy of the folder may order them
    assert find_checkpoint(run / "checkpoints") == furthest
    again = save(run / "checkpoints/last-v2.ckpt", step=6)
    assert find_checkpoint(run) == again


def test_what_is_cut_short_is_left_out_and_named(run):
    whole = save(run / "checkpoints/step=2.ckpt", step=2)
    save(run / "checkpoints/last.ckpt", step=4, cut=True)
    with pytest.warns(UserWarning, match=r"last\.ckpt cannot be read \(damaged.*: taking .*step=2\.ckpt"):
        assert find_checkpoint(run) == whole
    later = run.with_name("version_1")
    save(later / "checkpoints/last.ckpt", step=4, cut=True)
    with pytest.raises(FileNotFoundError, match=r"version_1/checkpoints/last\.ckpt cannot be read"):  # no other run's
        find_checkpoint(run.parent)
    with pytest.raises(FileNotFoundError, match=r"that holds a readable checkpoint\. Train"):
        find_checkpoint(run.parent / "nothing")


def test_a_run_that_ended_before_its_first_checkpoint_does_not_take_anothers_in_silence(run):
    others = save(run / "checkpoints/last.ckpt", step=9, config="lr: 2")
    with pytest.warns(UserWarning, match=r"no checkpoint was written by the run of .*config\.yaml, .*: taking"):
        assert find_checkpoint(run) == others


def test_a_folder_of_several_experiments_names_none(run):
    save(run / "checkpoints/last.ckpt")
    save(run.parent.parent / "stage1/version_0/checkpoints/last.ckpt")
    with pytest.raises(ValueError, match=r"several experiments \(.*/opt, .*/stage1\): name one"):
        find_checkpoint(run.parent.parent)


def test_a_run_within_a_run_is_another_one(run):
    own = save(run / "checkpoints/last.ckpt")
    other = run / "vqa"
    other.mkdir()
    (other / "config.yaml").write_text("lr: 1")
    inner = save(other / "last.ckpt", step=8)
    assert find_checkpoint(run) == own and run_of(own) == run and run_of(inner) == other


@pytest.mark.parametrize("name", ["best.ckpt", "checkpoints/last.ckpt", "checkpoints/top/k=1.ckpt"])
def test_a_checkpoint_belongs_to_the_run_whose_folder_holds_its_config(run, name):
    file = save(run / name)
    assert run_of(file) == run and find_checkpoint(run) == file


def test_a_run_that_somebody_else_looks_at_is_not_held(run):
    """As each rank of a job that is started once more does, at the same time."""
    (run / HELD).touch()
    look = FileLock(run / HELD, thread_local=False)
    look.acquire()
    threading.Timer(0.3, look.release).start()
    assert not is_held(run)
    look.acquire()
    threading.Timer(0.3, look.release).start()
    mine = hold(run)
    assert is_held(run)
    mine.release()


def made(folder: Path, version: int, step: int | None, cut: bool = False, config: str = "lr: 1\n") -> Path:
    """A run, begun after those before it; without a step it has left no checkpoint."""
    run = folder / f"version_{version}"
    run.mkdir(parents=True)
    (run / CONFIG).write_text(config)
    os.utime(run / CONFIG, (at := next(CLOCK), at))
    if step is not None:
        save(run / "checkpoints/last.ckpt", step, config, cut)
    return run


def test_a_finished_run_is_not_the_newest_where_a_newer_one_has_left_nothing(tmp_path):
    finished = made(tmp_path, 0, 6)
    assert newest_of({"lr": 1}, tmp_path, 6)[::3] == (finished, True)
    made(tmp_path, 1, None)
    assert newest_of({"lr": 1}, tmp_path, 6) is None
    unfinished = made(tmp_path, 2, 4)
    made(tmp_path, 3, None)
    assert newest_of({"lr": 1}, tmp_path, 6)[::3] == (unfinished, False)
    assert newest_of({"lr": 2}, tmp_path, 6) is None


def test_a_finished_run_is_not_the_newest_where_a_newer_one_is_damaged_or_being_trained(tmp_path):
    made(tmp_path, 0, 6)
    newer = made(tmp_path, 1, 4, cut=True)
    with pytest.warns(UserWarning, match=r"version_1/checkpoints/last\.ckpt cannot be read \(damaged"):
        assert newest_of({"lr": 1}, tmp_path, 6) is None
    save(newer / "checkpoints/last.ckpt", 4)
    with FileLock(newer / HELD):
        assert newest_of({"lr": 1}, tmp_path, 6) is None
    assert newest_of({"lr": 1}, tmp_path, 6).run == newer


def test_a_checkpoint_that_another_run_has_left_in_the_folder_finishes_nothing(tmp_path):
    """As in older folders, which several runs could share, where the second ended before its first."""
    run = made(tmp_path, 0, 6)
    (run / CONFIG).write_text("lr: 2\n")
    with pytest.warns(UserWarning, match="of another run in that folder"):
        assert newest_of({"lr": 2}, tmp_path, 6) is None


def test_an_unfinished_run_is_gone_on_with_though_a_finished_one_seems_newer(tmp_path):
    """As after a copy of the folder, which writes its files in any order."""
    unfinished = made(tmp_path, 1, 4)
    finished = made(tmp_path, 0, 6)
    assert newest_of({"lr": 1}, tmp_path, 6)[::3] == (unfinished, False)
    save(unfinished / "checkpoints/last.ckpt", 6)
    assert newest_of({"lr": 1}, tmp_path, 6)[::3] == (finished, True)


def test_a_run_of_fewer_steps_than_planned_is_named_by_its_steps(run):
    def stands_at(step: int, trainer: str) -> Path:
        (run / CONFIG).write_text(config := f"lr: 1\ntrainer: {trainer}\n")
        return save(run / "checkpoints/last.ckpt", step, config)

    stopped = stands_at(4, "{max_steps: 6}")
    with pytest.warns(UserWarning, match="version_0 stands at step 4 of 6: its run was stopped, has ended early"):
        assert find_checkpoint(run.parent) == stopped
    with pytest.warns(UserWarning, match="version_0/checkpoints/last.ckpt stands at step 4 of 6"):
        assert find_checkpoint(stopped) == stopped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest_checkpoint(run) == stopped
        best = save(run / "checkpoints/step=4.ckpt", 4, (run / CONFIG).read_text())
        assert find_checkpoint(best) == best  # who names such a file means that step
        best.unlink()
        assert stands_at(6, "{max_steps: 6}") == find_checkpoint(run)
        assert stands_at(4, "{max_steps: -1, max_epochs: 2}") == find_checkpoint(run)


@pytest.mark.parametrize("name", ["mini.ckpt", "Last.ckpt", "epoch=0-step=4.ckpt", "version_0_last"])
def test_a_copy_of_a_checkpoint_that_stands_for_its_run_is_named_whatever_it_is_called(tmp_path, name):
    copy = save(tmp_path / name, 4, "trainer: {max_steps: 6}", **{PLANNED: 6})
    with pytest.warns(UserWarning, match=f"{name} stands at step 4 of 6: its run was stopped"):
        assert find_checkpoint(copy) == copy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_checkpoint(save(copy, 6, **{PLANNED: 6})) == copy
        assert find_checkpoint(save(copy, 4, "trainer: {max_steps: 6}")) == copy  # as a callback that keeps the best
        copy.write_bytes(b"weights of another kind")
        assert find_checkpoint(copy) == copy


def test_a_new_run_begins_in_no_folder_that_holds_one(tmp_path):
    run = made(tmp_path, 0, 4, config="lr: 1\ntrainer: {max_steps: 6}\n")
    own = run / "checkpoints/last.ckpt"
    said = r"version_0 holds a run already, at step 4 of 6, .* --resume goes on .* another --trainer\.logger\.version"
    with pytest.raises(ValueError, match=said):
        check_new(run)
    with pytest.raises(ValueError, match="version_0 holds a run already"):
        check_new(run, save(tmp_path / "version_1/checkpoints/last.ckpt"))
    check_new(run, own)
    (tmp_path / "named").symlink_to(run)
    check_new(tmp_path / "named", own)
    (run / CONFIG).unlink()
    with pytest.raises(ValueError, match="at step 4 of 6"):
        check_new(run)
    check_new(run, own)
    own.write_bytes(b"cut")
    with pytest.raises(ValueError, match="without a checkpoint"):
        check_new(run)


def test_what_a_jobs_own_run_has_left_before_its_first_checkpoint_is_written_over(tmp_path):
    run = made(tmp_path, 0, None)
    (run / JOB).write_text("slurm 5\nslurm 5 too\n")
    check_new(tmp_path / "version_1")
    for job in (None, "slurm", "slurm 6"):
        with pytest.raises(ValueError, match="without a checkpoint"):
            check_new(run, job=job)
    check_new(run, job="slurm 5")
    save(run / "checkpoints/last.ckpt", 2)
    with pytest.raises(ValueError, match="at step 2, "):
        check_new(run, job="slurm 5")


def test_a_job_finds_the_run_that_it_trained_and_no_other(tmp_path):
    runs = [made(tmp_path, number, step) for number, step in enumerate((4, 5, 6, 3))]
    for run, job in zip(runs, ("slurm 5", "slurm 6", "slurm 7\ntorchrun none host 1 2", None)):
        if job:
            (run / JOB).write_text(f"{job}\n")
    found = {job: newest_of({"lr": 1}, tmp_path, 6, job) for job in ("slurm 5", "slurm 6", "slurm 7", "slurm 8")}
    assert found["slurm 5"][::3] == (runs[0], False) and found["slurm 6"].step == 5 and found["slurm 7"].finished
    assert newest_of({"lr": 1}, tmp_path, 6, "torchrun none host 1 2").run == runs[2] and found["slurm 8"] is None
    assert newest_of({"lr": 2}, tmp_path, 6, "slurm 5") is None
    assert newest_of({"lr": 1}, tmp_path, 6).run == runs[3]


def test_a_run_whose_config_has_not_come_is_named_and_its_checkpoint_tells_it(tmp_path):
    """As after a copy that was cut off: checkpoints/ comes before config.yaml."""
    run = made(tmp_path, 0, 4, config="lr: 1\ntrainer: {max_steps: 6}\n")
    (run / CONFIG).unlink()
    with pytest.warns(UserWarning, match=r"version_0 has no config\.yaml that can be read: taking the one in"):
        assert newest_of({"lr": 1, "trainer": {"max_steps": 6}}, tmp_path, 6).run == run
    assert newest_of({"lr": 2, "trainer": {"max_steps": 6}}, tmp_path, 6) is None
    assert newest_other({"lr": 2, "trainer": {"max_steps": 6}}, tmp_path)[:3] == (run, 4, 6)


def test_checkpoints_that_were_moved_to_another_disk_are_named(tmp_path):
    """And linked: they are there, so that nobody may say that there are none."""
    run = made(tmp_path / "x", 0, 4)
    (run / "checkpoints").rename(tmp_path / "disk")
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    for look in (run, run.parent):
        with pytest.raises(DataError, match=r"version_0/checkpoints/last\.ckpt leads out of .*, to .*/disk/last"):
            find_checkpoint(look)
    with pytest.raises(DataError, match=r"leads out of"):
        newest_of({"lr": 1}, run.parent, 6)
    assert newest_of({"lr": 2}, run.parent, 6) is None
    with pytest.raises(DataError, match=r"leads out of"):
        check_new(run)
    newer = made(tmp_path / "x", 1, 6)
    assert find_checkpoint(run.parent).parent.parent == newer


def test_a_run_behind_a_link_is_not_passed_over(tmp_path):
    run = made(tmp_path / "elsewhere", 0, 4)
    (tmp_path / "x").mkdir()
    link = tmp_path / "x/version_0"
    link.symlink_to(run)
    with pytest.raises(DataError, match=r"x/version_0/checkpoints/last\.ckpt leads out of"):
        find_checkpoint(tmp_path / "x")
    assert find_checkpoint(link).parent.parent == link and newest_of({"lr": 1}, tmp_path / "x", 6).run == link


def test_where_a_run_s_config_cannot_be_read_its_checkpoint_tells_it(tmp_path):
    run = made(tmp_path, 0, 4)
    (run / CONFIG).write_text("")
    with pytest.warns(UserWarning, match="version_0 has no config.yaml that can be read"):
        assert newest_of({"lr": 1}, tmp_path, 6).run == run
    assert newest_of({"lr": 2}, tmp_path, 6) is None


def test_what_changes_no_step_makes_no_other_run(tmp_path):
    settings = {"lr": 1, "data": {"class_path": "x", "init_args": {"seed": 1, "num_workers": 2, "eval_batch_size": 8}}}
    run = made(tmp_path, 0, 4, config=yaml.safe_dump(settings | {"trainer": {"max_steps": 6, "devices": 2}}))
    other = {"lr": 1, "data": {"class_path": "x", "init_args": {"seed": 1, "num_workers": 0, "eval_batch_size": 4}}}
    other |= {"trainer": {"max_steps": 6, "devices": "auto", "enable_progress_bar": False, "log_every_n_steps": 7}}
    assert newest_of(other, tmp_path, 6).run == run
    other["data"]["init_args"]["seed"] = 2
    assert newest_of(other, tmp_path, 6) is None


def test_how_long_a_run_may_take_to_stop_is_no_other_run(tmp_path):
    config = "trainer: {callbacks: [{class_path: Checkpoints, init_args: {grace: 30, n: 1}}]}\n"
    run = made(tmp_path, 0, 4, config=config)
    asked = {"trainer": {"callbacks": [{"class_path": "Checkpoints", "init_args": {"grace": 5, "n": 1}}]}}
    assert newest_of(asked, tmp_path, 6).run == run
    asked["trainer"]["callbacks"].append({"class_path": "lit_blip2.lit.callbacks.StepProgressBar"})
    assert newest_of(asked, tmp_path, 6).run == run  # nor is what it shows
    asked["trainer"]["callbacks"][0]["init_args"]["n"] = 2
    assert newest_of(asked, tmp_path, 6) is None


def test_a_run_is_finished_once_its_steps_are_made_and_no_validation_is_due():
    """One without a validation set is never validated; of older checkpoints the step of the last validation tells."""
    assert is_at_end({"global_step": 6, "validated_step": 0, "validation_due": False}, 6)
    assert not is_at_end({"global_step": 6, "validated_step": 4, "validation_due": True}, 6)
    assert not is_at_end({"global_step": 5, "validated_step": 5, "validation_due": False}, 6)
    assert is_at_end({"global_step": 6, "validated_step": 6}, 6) and is_at_end({"global_step": 6}, 6)
    assert not is_at_end({"global_step": 6, "validated_step": 4}, 6)
