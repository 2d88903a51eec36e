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

import pytest
import torch

from lit_blip2.checkpoint import read_checkpoint

pytestmark = pytest.mark.run
STEPS = 6
NEVER = "\0"  # no line begins so; Lightning prints some of dashes


def arguments(world, runs, *more: str) -> list[str]:
    """A run of STEPS steps with a validation every second one, which prints a line for each hook that it comes to."""
    return [
        sys.executable, "-m", "lit_blip2", "fit", "--config", "experiments/mini_stage1.yaml", "--model.rerank=3",
        f"--data.root={world}", "--data.batch_size=8", "--data.eval_batch_size=2", f"--trainer.logger.save_dir={runs}",
        f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=2", "--model.optimization.warmup_steps=1",
        "--model.net.itm=null", "--model.net.itg=null", "--data.binding_val=null", "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false", "--trainer.callbacks+=tests.lit.stops.Told", *more,
    ]  # fmt: skip


def stopped(world, runs, at: str, *more: str, number=signal.SIGTERM, group=False, environment=None) -> tuple[int, str]:
    """Status and output of a run that gets a signal as soon as it has printed a line that begins so."""
    process = subprocess.Popen(
        arguments(world, runs, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(at):
            (os.killpg if group else os.kill)(process.pid, number)
            at = NEVER  # once
    return process.wait(60), "".join(lines)


def finished(world, runs, *more: str) -> tuple[int, str]:
    return stopped(world, runs, NEVER, *more)


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


@pytest.mark.parametrize(
    ("at", "number", "step"),
    [
        ("step 3", signal.SIGTERM, 3),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("step 1", signal.SIGINT, 1),
                ("step 5", signal.SIGUSR1, 5),
                ("validation of step 4", signal.SIGTERM, 4),
                ("saving step 2", signal.SIGTERM, 2),
                ("validation of step 6", signal.SIGINT, 6),
            )
        ),
    ],
)
def test_its_state_is_saved_and_it_goes_on_as_one_run(world, whole, tmp_path, at, number, step):
    status, said = stopped(world, tmp_path, at, number=number, group=number == signal.SIGINT)
    assert status == 128 + number, said
    assert f"{number.name}: stopped at step {step} of {STEPS}" in said and "--resume" in said
    run = run_of(tmp_path)
    assert read_checkpoint(run)["global_step"] == step
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    status, said = finished(world, tmp_path, "--resume")
    assert status == 0 and f"going on with {run}, at step {step} of {STEPS}" in said, said
    assert run_of(tmp_path) == run and same_weights(run, whole)
    assert validations(run) == validations(whole)


@pytest.mark.slow
def test_a_checkpoint_that_finds_no_room_leaves_the_former_one(world, whole, small_disk):
    """For the second one the first has to be there still: the disk has room for one and a half."""
    size = (whole / "checkpoints/last.ckpt").stat().st_size
    disk = small_disk(size * 3 // 2 + events_of(whole))
    status, said = finished(world, disk)
    run = run_of(disk)
    line = said.splitlines()[-1]
    assert status == 1 and f"error: {run}/checkpoints/last.ckpt finds no room on its disk: " in line, said
    assert " are needed, " in line and " are free. " in line and "--resume" in line
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert read_checkpoint(run)["global_step"] == 2
    small_disk(size * 3)
    status, said = finished(world, disk, "--resume")
    assert status == 0 and f"going on with {run}, at step 2 of {STEPS}" in said, said
    assert same_weights(run, whole) and validations(run) == validations(whole)


def events_of(run) -> int:
    """Bytes of what a run writes beside its checkpoint."""
    return sum(file.stat().st_size for file in run.rglob("*") if file.is_file() and file.suffix != ".ckpt")


@pytest.mark.slow
def test_a_kill_costs_what_came_after_the_last_validation_had_begun(world, whole, tmp_path):
    status, said = stopped(world, tmp_path, "validation of step 4", number=signal.SIGKILL)
    assert status == -signal.SIGKILL, said
    assert read_checkpoint(run_of(tmp_path))["global_step"] == 4
    assert finished(world, tmp_path, "--resume")[0] == 0
    assert same_weights(run_of(tmp_path), whole) and validations(run_of(tmp_path)) == validations(whole)


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_two_ranks_stop_at_the_same_step(world, tmp_path, group):
    two = ["--trainer.devices=2", "--trainer.strategy=auto"]
    status, said = stopped(world, tmp_path, "step 1", *two, group=group)
    assert status == 143, said
    step = read_checkpoint(run_of(tmp_path))["global_step"]
    assert 1 <= step <= 3 and f"stopped at step {step} of" in said
    status, said = finished(world, tmp_path, "--resume", *two)
    assert status == 0, said
    assert [each["step"] for each in validations(run_of(tmp_path))] == [2, 4, 6]


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
def test_a_new_run_says_that_an_unfinished_one_is_there_and_a_finished_one_is_not_made_again(world, whole, tmp_path):
    stopped(world, tmp_path, "step 3")
    status, said = finished(world, tmp_path)
    place = tmp_path / "mini_stage1" / "version_0"
    assert status == 0 and f"an unfinished run of these settings lies in {place}, at step 3 of 6: --resume" in said
    status, said = finished(world, tmp_path, "--resume")
    assert status == 0 and "the newest run of these settings is finished" in said
    assert len(list((tmp_path / "mini_stage1").iterdir())) == 2
    status, said = finished(world, tmp_path, "--resume", "--data.seed=3")
    assert status == 0 and "no run of these settings has left a checkpoint" in said


@pytest.mark.slow
def test_a_job_that_is_started_once_more_goes_on_without_being_asked(world, whole, tmp_path):
    stopped(world, tmp_path, "step 3")
    status, said = stopped(world, tmp_path, NEVER, environment={"TORCHELASTIC_RESTART_COUNT": "1"})
    assert status == 0 and "going on with" in said and same_weights(run_of(tmp_path), whole)


def test_flipped_bits_are_found_and_the_newest_whole_checkpoint_is_taken(world, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "runs" / "mini_stage1" / "version_0")
    file = run / "checkpoints" / "last.ckpt"
    other = shutil.copy(file, file.with_name("copy.ckpt"))
    with zipfile.ZipFile(file) as parts:
        largest = max(parts.infolist(), key=lambda each: each.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + 1000] ^= 4
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"last\.ckpt cannot be read, being damaged .*: taking .*copy\.ckpt"):
        assert read_checkpoint(run)["global_step"] == STEPS
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: its contents are not what was written"):
        read_checkpoint(file)
    assert Path(other).exists()
