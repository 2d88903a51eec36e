"""Two processes that somebody else has started, as on two machines: one differs, one dies, one meets nan."""

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_blip2.distributed import rank
from lit_blip2.lit.kept_batch import read_kept
from tests.ranks import commands

pytestmark = [pytest.mark.slow, pytest.mark.run]


class Signs(L.Callback):
    """Rank 1 leaves a file at its third step, and takes long for each; or its loss is nan there."""

    def __init__(self, file: str = "", spoils: bool = False):
        self.file, self.spoils = file, spoils

    def on_train_batch_start(self, trainer, module, batch, _):
        if rank() == 1 and batch["step"] == 2:
            if self.spoils:
                before = module.losses
                module.losses = lambda given: {name: loss * torch.nan for name, loss in before(given).items()}
            else:
                Path(self.file).touch()
                time.sleep(60)


@pytest.fixture
def two(world, tmp_path):
    """Start `fit` in two processes; `own` are the arguments of the second one, `places` what the environment tells
    each."""
    common = [
        "fit", "--config", "experiments/mini_stage1.yaml", f"--data.root={world}", "--data.batch_size=8",
        "--data.eval_batch_size=2", "--model.rerank=3", "--trainer.devices=2", "--trainer.strategy=auto",
        f"--trainer.logger.save_dir={tmp_path}/runs", "--trainer.max_steps=6", "--trainer.val_check_interval=6",
        "--model.optimization.warmup_steps=1", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    with commands(tmp_path) as started:

        def start(
            *arguments: str, own: tuple[str, ...] = (), places: tuple[dict[str, str], dict[str, str]] = ({}, {})
        ) -> list[subprocess.Popen]:
            both = [*common, *arguments]
            return started([both, [*both, *own]], list(places))

        yield start


def errors(folder: Path) -> list[str]:
    said = [line for number in range(2) for line in (folder / f"{number}.err").read_text().splitlines()]
    assert not [line for line in said if line.startswith("Traceback")], said
    return [line for line in said if line.startswith("error: ")]


def signs(**arguments) -> str:
    own = ", ".join(f"{name}: {value}" for name, value in arguments.items())
    return f"--trainer.callbacks+={{class_path: tests.lit.test_ranks_apart.Signs, init_args: {{{own}}}}}"


def test_another_learning_rate_on_one_rank_is_refused_in_one_line(two, tmp_path):
    assert [each.wait(200) for each in two(own=("--model.optimization.lr=0.5",))] == [2, 2]
    (line,) = errors(tmp_path)
    assert "model.optimization.lr is 0.002 on rank 0 and 0.5 on rank 1. Start" in line
    assert not list(tmp_path.rglob("config.yaml"))


def test_other_annotations_to_evaluate_on_are_refused(two, world, tmp_path):
    """One word of one caption is another, in a copy elsewhere."""
    other = shutil.copytree(world, tmp_path / "mini")
    file = other / "annotations/captions_val.json"
    told = json.loads(file.read_text())
    told["annotations"][-1]["caption"] += " indeed"
    file.write_text(json.dumps(told))
    assert [each.wait(200) for each in two(own=(f"--data.root={other}",))] == [2, 2]
    (line,) = errors(tmp_path)
    assert "annotations of val: captions_val.json is " in line and line.count(" on rank 0 and ") == 1


def test_another_code_of_ones_own_class_and_another_precision_of_products_are_refused(two, tmp_path):
    """The class is of a module that imports what it does from another one in its package."""
    places = [tmp_path / name for name in ("a", "b")]
    for place, power in zip(places, (1, 2), strict=True):
        (place / "mine").mkdir(parents=True)
        (place / "mine/losses.py").write_text(f"POWER = {power}\n")
        (place / "mine/__init__.py").write_text(
            "from lit_blip2.lit import LitStage1\nfrom mine.losses import POWER\n"
            "class Model(LitStage1):\n    def losses(self, batch):\n"
            "        return {name: loss**POWER for name, loss in super().losses(batch).items()}\n"
        )
    told = tuple({"PYTHONPATH": str(place)} for place in places)
    told[1]["NVIDIA_TF32_OVERRIDE"] = "0"
    assert [each.wait(200) for each in two("--model=mine.Model", places=told)] == [2, 2]
    (line,) = errors(tmp_path)
    assert "source of mine.losses is " in line and "NVIDIA_TF32_OVERRIDE is not set on rank 0 and 0 on rank 1" in line
    assert line.count(" on rank 0 and ") == 2  # mine itself is the same


def test_another_checkpoint_of_the_same_name_is_refused(two, stage1_run, tmp_path):
    """As on machines that each have a disk of their own."""
    places = [tmp_path / name / "checkpoints/last.ckpt" for name in ("a", "b")]
    for place, step in zip(places, (2, 4), strict=True):
        place.parent.mkdir(parents=True)
        shutil.copy(next(stage1_run.glob(f"checkpoints/*step={step}*.ckpt")), place)
    arguments = [f"--ckpt_path={place}" for place in places]
    assert [each.wait(200) for each in two(arguments[0], own=(arguments[1],))] == [2, 2]
    (line,) = errors(tmp_path)
    assert "the checkpoint is " in line and line.count(" on rank 0 and ") == 1


def test_a_rank_that_is_killed_ends_the_other_within_a_minute(two, tmp_path):
    sign = tmp_path / "sign"
    first, second = two(signs(file=sign))
    until = time.monotonic() + 200
    while not sign.exists() and time.monotonic() < until:
        time.sleep(0.2)
    second.send_signal(signal.SIGKILL)
    begin = time.monotonic()
    assert first.wait(60) == 1 and time.monotonic() - begin < 60
    (line,) = errors(tmp_path)
    assert f"rank 1 of 2 ({socket.gethostname()}, process {second.pid}) is gone: it was killed" in line


def test_nan_on_one_rank_ends_both_at_its_step(two, tmp_path):
    """Features travel between ranks before ITC, and gradients after all: only the one that began keeps its batch."""
    alone = ["--model.net.itc=null", "--model.net.itg=null", "--model.net.itm.hard_negatives=false"]
    assert [each.wait(200) for each in two(signs(spoils=True), *alone)] == [1, 1]
    lines = errors(tmp_path)
    assert len(lines) == 2 and all("error: step 2: rank 1's loss itm is nan" in line for line in lines)
    (file,) = tmp_path.rglob("not_finite/*.pt")
    assert file.name == "step_2_rank_1.pt" and read_kept(file)["batches"][0]["row"].tolist() == [4, 5, 6, 7]
