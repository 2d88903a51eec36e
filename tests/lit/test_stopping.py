"""Runs that a signal ends, in processes of their own: their state is saved, and they go on as if nothing had been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.lit.signals import Signals
from tests.lit.stops import command, slurm

pytestmark = pytest.mark.run
STEPS = 6
NEVER = "\0"  # no line begins so; Lightning prints some of dashes
PLAIN = ["--model.rerank=3", "--model.net.itm=null", "--model.net.itg=null", "--data.binding_val=null"]


def stopped(world, runs, at: str, *more: str, number=signal.SIGTERM, group=False, environment=None) -> tuple[int, str]:
    """Status and output of a run that gets a signal as soon as it has printed a line that begins so."""
    process = subprocess.Popen(
        command("mini_stage1", world, runs, STEPS, *PLAIN, *more), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(at):
            (os.killpg if group else os.kill)(process.pid, number)
            at = NEVER  # once
    return process.wait(60), "".join(lines)


def finished(world, runs, *more: str, **how) -> tuple[int, str]:
    return stopped(world, runs, NEVER, *more, **how)


def run_of(runs) -> Path:
    (run,) = (runs / "mini_stage1").glob("version_*")
    return run


def validations(run) -> list[dict]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def same_weights(one, two) -> bool:
    ours, theirs = read_checkpoint(one), read_checkpoint(two)
    assert ours["global_step"] == theirs["global_step"] == STEPS
    pairs = zip(ours["state_dict"].items(), theirs["state_dict"].items())
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    runs = tmp_path_factory.mktemp("whole")
    status, said = finished(world, runs)
    assert status == 0, said
    return run_of(runs)


@pytest.fixture(scope="module")
def at_step_3(world, tmp_path_factory):
    """A run that was stopped there: give it to a test as a copy."""
    runs = tmp_path_factory.mktemp("stopped")
    stops_at(world, runs, "step 3", signal.SIGTERM, 3)
    return runs


def stops_at(world, runs, at: str, number: signal.Signals, step: int, *more: str, **how) -> str:
    """Start or go on; the signal comes at a line, and the state of a step is saved. Gives what was said."""
    status, said = stopped(world, runs, at, *more, number=number, **how)
    assert status == (-number if number == signal.SIGKILL else 128 + number), said
    assert number == signal.SIGKILL or f"{number.name}: stopped at step {step} of {STEPS}" in said, said
    run = run_of(runs)
    assert read_checkpoint(run)["global_step"] == step
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    return said


def ends_as(whole, world, runs, step: int, *more: str, **how) -> None:
    """Go on from this step to the end: all is equal to the undisturbed run's."""
    status, said = finished(world, runs, *more, **how)
    run = run_of(runs)
    assert status == 0 and f"going on with {run}, at step {step} of {STEPS}" in said, said
    assert same_weights(run, whole) and validations(run) == validations(whole)


@pytest.mark.slow
def test_its_state_is_saved_and_it_goes_on_as_one_run(world, whole, at_step_3, tmp_path):
    runs = shutil.copytree(at_step_3, tmp_path / "runs")
    ends_as(whole, world, runs, 3, "--resume")


@pytest.mark.slow
def test_a_checkpoint_that_finds_no_room_leaves_the_former_one(world, whole, small_disk):
    """For the second one the first has to be there still: the disk has room for one and a half."""
    size = (whole / "checkpoints/last.ckpt").stat().st_size
    disk = small_disk(size * 3 // 2 + events_of(whole))
    status, said = finished(world, disk)
    run = run_of(disk)
    line = said.splitlines()[-1]
    assert status == 2 and f"error: not enough disk space for {run}/checkpoints/last.ckpt: " in line, said
    assert "it needs " in line and " are free. " in line and "--resume" in line
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert read_checkpoint(run)["global_step"] == 2
    small_disk(size * 3)
    status, said = finished(world, disk, "--resume")
    assert status == 0 and f"going on with {run}, at step 2 of {STEPS}" in said, said
    assert same_weights(run, whole) and validations(run) == validations(whole)


def events_of(run) -> int:
    """Bytes of what a run writes beside its checkpoint."""
    return sum(file.stat().st_size for file in run.rglob("*") if file.is_file() and file.suffix != ".ckpt")


# Under nohup it stays ignored, in processes that are started too.
HANGUP = signal.SIGTERM if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else signal.SIGHUP


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_goes_on_as_one(world, whole, tmp_path):
    """In a step, a save and a validation; what SIGKILL costs is what came after the last validation had begun."""
    for at, number, step in (
        ("step 1", signal.SIGINT, 1),
        ("saving step 2", signal.SIGTERM, 2),
        ("validation of step 4", signal.SIGKILL, 4),
        ("validation of step 4", HANGUP, 4),
        ("step 5", signal.SIGUSR1, 5),
        ("validation of step 6", signal.SIGINT, 6),
    ):
        said = stops_at(world, tmp_path, at, number, step, "--resume", group=number == signal.SIGINT)
        assert number == signal.SIGKILL or "go on with it by --resume" in said
    ends_as(whole, world, tmp_path, 6, "--resume")


@pytest.mark.slow
def test_two_ranks_stop_at_the_same_step(world, tmp_path):
    """The signal comes to one of them, then to both."""
    two = ["--trainer.devices=2", "--trainer.strategy=auto", "--resume"]
    for at, group, steps in (("step 1", False, (1, 2, 3)), ("step 4", True, (4, 5, 6))):
        status, said = stopped(world, tmp_path, at, *two, group=group)
        step = read_checkpoint(run_of(tmp_path))["global_step"]
        assert status == 143 and step in steps and f"stopped at step {step} of" in said, said
    status, said = finished(world, tmp_path, *two)
    assert status == 0, said
    assert [each["step"] for each in validations(run_of(tmp_path))] == [2, 4, 6]


class Handlers(L.Callback):
    """Whose handlers are in place just before the first step; callbacks that write checkpoints come later."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            assert isinstance(signal.getsignal(number).__self__, Signals)


def test_no_handler_of_lightnings_is_ever_in_place(fit, tmp_path):
    """Its own sends to the other ranks in the middle of whatever is being sent: each then waits for the other."""
    fit("mini_stage1", "--trainer.callbacks+=tests.lit.test_stopping.Handlers", runs=tmp_path)


@pytest.mark.slow
def test_before_its_first_step_there_is_nothing_to_save(world, tmp_path):
    status, said = stopped(world, tmp_path, "setting up")
    assert status == 143 and "stopped at step 0" in said and "has written no checkpoint yet" in said, said
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_step_that_does_not_end_within_the_grace_time_is_named(world, tmp_path):
    began = time.monotonic()
    status, said = stopped(world, tmp_path, "step 3", "--grace=0.5", environment={"STUCK_AT": "4"})
    assert status == 143 and time.monotonic() - began < 60
    assert "SIGTERM: no step ended within the grace time of 0.5 seconds. Its newest checkpoint is" in said, said
    assert read_checkpoint(run_of(tmp_path))["global_step"] == 2


@pytest.mark.slow
def test_a_new_run_says_that_an_unfinished_one_is_there_and_a_finished_one_is_not_made_again(
    world, at_step_3, tmp_path
):
    runs = shutil.copytree(at_step_3, tmp_path / "runs")
    place = run_of(runs)
    status, said = finished(world, runs)
    assert status == 0 and f"an unfinished run of these settings lies in {place}, at step 3 of 6: --resume" in said
    status, said = finished(world, runs, "--resume")
    assert status == 0 and f"going on with {place}, at step 3 of 6" in said
    status, said = finished(world, runs, "--resume")
    assert status == 0 and "the newest run of these settings is finished" in said
    assert len(list((runs / "mini_stage1").iterdir())) == 2
    status, said = finished(world, runs, "--resume", "--data.seed=3")
    assert status == 0 and "no unfinished run of these settings has left a checkpoint" in said


@pytest.mark.slow
def test_a_process_that_torchrun_starts_once_more_goes_on_with_its_own_run(world, whole, at_step_3, tmp_path):
    """It was killed in step 3, behind the validation of step 2; a run of somebody else stands further."""
    runs = shutil.copytree(at_step_3, tmp_path / "runs")
    arguments = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1", "-m"]
    arguments += command("mini_stage1", world, runs, STEPS, *PLAIN)[2:]
    process = subprocess.Popen(
        arguments, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said, at = "", "step 3"
    for line in process.stdout:
        if line.startswith(at):
            (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(worker), signal.SIGKILL)
            at = NEVER
        said += line
    own = runs / "mini_stage1/version_1"
    assert process.wait(60) == 0 and f"going on with {own}, at step 2 of {STEPS}" in said, said
    assert same_weights(own, whole) and read_checkpoint(runs / "mini_stage1/version_0")["global_step"] == 3
    assert "an unfinished run of these settings lies in" in said  # when it was started first


@pytest.mark.slow
def test_a_slurm_job_goes_on_with_its_own_run_beside_those_of_others(world, whole, at_step_3, tmp_path):
    """The others' stand there too, one is newer; one has no job. Once its own is finished, nothing begins."""
    runs = shutil.copytree(at_step_3, tmp_path / "runs")
    own = runs / "mini_stage1/version_0"
    others = [shutil.copytree(own, own.with_name(f"version_{number}")) for number in (1, 2)]
    (own / "job.txt").write_text("slurm 4711_2\n")
    (others[0] / "job.txt").write_text("slurm 4711_3\n")
    job = slurm(tmp_path / "cluster", 0) | {"SLURM_RESTART_COUNT": "1"}
    given = f"--ckpt_path={others[1]}"
    status, said = finished(world, runs, given, environment=job)
    assert status == 0 and f"going on with {own}, at step 3 of {STEPS}, the run of this job, and not with" in said, said
    assert same_weights(own, whole)
    status, said = finished(world, runs, environment=job | {"SLURM_RESTART_COUNT": "2"})
    assert status == 0 and f"the run of this job is finished: {own}, at step 6 of 6" in said, said
    assert sorted((runs / "mini_stage1").iterdir()) == [own, *others]
    assert {read_checkpoint(each)["global_step"] for each in others} == {3}


@pytest.mark.slow
def test_a_run_goes_on_in_the_file_that_it_went_on_from(world, whole, at_step_3, tmp_path):
    """In an older folder, which a run of other settings was put into before it: that one's checkpoint stays."""
    runs = shutil.copytree(at_step_3, tmp_path / "runs")
    run = run_of(runs)
    other = (run / "checkpoints/last.ckpt").rename(run / "checkpoints/last-v1.ckpt").with_name("last.ckpt")
    contents = read_checkpoint(run)
    torch.save(contents | {"config": contents["config"].replace("seed: 0", "seed: 1"), "global_step": 2}, other)
    before = other.read_bytes()
    ends_as(whole, world, runs, 3, "--resume")
    assert other.read_bytes() == before
    assert sorted(file.name for file in (run / "checkpoints").iterdir()) == ["last-v1.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_a_run_whose_config_has_not_come_goes_on(world, whole, at_step_3, tmp_path):
    runs = shutil.copytree(at_step_3, tmp_path / "runs")
    (run_of(runs) / "config.yaml").unlink()
    ends_as(whole, world, runs, 3, "--resume")


def test_a_run_whose_checkpoints_are_a_link_is_named(world, at_step_3, tmp_path):
    runs = shutil.copytree(at_step_3, tmp_path / "runs")
    folder = run_of(runs) / "checkpoints"
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    status, said = finished(world, runs, "--resume")
    assert status == 2 and f"error: {folder}/last.ckpt leads out of {folder.parent}, to {tmp_path}/disk" in said, said


@pytest.mark.slow
def test_a_slurm_job_is_saved_and_put_into_the_queue_again_and_goes_on(world, whole, tmp_path):
    """A minute before the job's limit SLURM sends SIGUSR1 (sbatch --signal=USR1@60), after the requeue SIGTERM."""
    job, runs = slurm(tmp_path / "cluster", 0), tmp_path / "runs"
    said = stops_at(world, runs, "step 3", signal.SIGUSR1, 3, environment=job)
    assert (tmp_path / "cluster" / "asked").read_text() == "requeue 4711_2\n", said
    assert not list(Path().glob("hpc_ckpt_*"))  # Lightning's own way
    assert (run_of(runs) / "job.txt").read_text() == "slurm 4711_2\n"
    ends_as(whole, world, runs, 3, environment=job | {"SLURM_RESTART_COUNT": "1"})


@pytest.mark.slow
def test_a_slurm_job_that_is_not_put_into_the_queue_again_says_so(world, tmp_path):
    job, runs = slurm(tmp_path / "cluster", 1), tmp_path / "runs"
    said = stops_at(world, runs, "step 3", signal.SIGUSR1, 3, environment=job)
    assert "scontrol requeue 4711_2 has failed" in said and "Traceback" not in said, said


def test_flipped_bits_are_found_and_the_newest_whole_checkpoint_is_taken(world, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "runs" / "mini_stage1" / "version_0")
    file = run / "checkpoints" / "last.ckpt"
    other = shutil.copy(file, file.with_name("copy.ckpt"))
    with zipfile.ZipFile(file) as parts:
        largest = max(parts.infolist(), key=lambda each: each.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + 1000] ^= 4
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"last\.ckpt cannot be read \(damaged.*: taking .*copy\.ckpt"):
        assert read_checkpoint(run)["global_step"] == STEPS
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: its contents are not what was written"):
        read_checkpoint(file)
    assert Path(other).exists()
