"""Runs that get a signal, in processes of their own: their command line, and a callback that prints where they are and
waits there a little for the signal to come."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L


def command(experiment: str, world, runs, steps: int, *more: str) -> list[str]:
    """`fit` of a short run with a validation every second step, which prints a line for each hook that it comes to."""
    return [
        sys.executable, "-m", "lit_blip2", "fit", "--config", f"experiments/{experiment}.yaml",
        f"--data.root={world}", "--data.batch_size=8", "--data.eval_batch_size=2", f"--trainer.logger.save_dir={runs}",
        f"--trainer.max_steps={steps}", "--trainer.val_check_interval=2", "--model.optimization.warmup_steps=1",
        "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.callbacks+=tests.lit.stops.Told", *more,
    ]  # fmt: skip


# What srun sets for the only task of a job, the third of an array.
SLURM = {
    "SLURM_JOB_ID": "4713", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
}  # fmt: skip


def slurm(cluster: Path, status: int) -> dict[str, str]:
    """The environment of a job, whose scontrol writes down what it is asked and ends with this status."""
    cluster.mkdir()
    file = cluster / "scontrol"
    file.write_text(f'#!/bin/sh\necho "$@" >> {cluster}/asked\necho denied >&2\nexit {status}\n')
    file.chmod(0o755)
    return SLURM | {"PATH": f"{cluster}:{os.environ['PATH']}"}


class Told(L.Callback):
    """Prints a line at hooks of a fit, each once.

    STUCK_AT in the environment: the step that does not end. PAUSE: seconds to wait at each line.
    """

    def __init__(self) -> None:
        self.told: set[str] = set()
        self.pause = float(os.environ.get("PAUSE", 0.3))

    def _tell(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            print(line, flush=True)
            time.sleep(self.pause)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell("setting up")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if str(trainer.global_step + 1) == os.environ.get("STUCK_AT"):
            time.sleep(100)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._tell(f"step {trainer.global_step}")

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._tell(f"validation of step {trainer.global_step}")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        self._tell(f"saving step {trainer.global_step}")
