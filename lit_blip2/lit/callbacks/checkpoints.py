"""Checkpoints: the callback that writes RUN/checkpoints/last.ckpt, and writes it when a signal ends the run."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
from filelock import FileLock
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_blip2.lit.checkpoint_io import WholeCheckpointIO
from lit_blip2.lit.signals import Signals, Stopped, keep_lightnings_out
from lit_blip2.paths import free_name
from lit_blip2.runs import CHECKPOINTS, PLANNED, check_new, hold, later_than, run_of
from lit_blip2.stopping import GRACE, STATUS, job_name, slurm_job


class Checkpoints(Checkpoint):
    """Writes last.ckpt: the trained weights and all that `fit --resume` needs to continue the run.

    The file is written before and after each validation, every `every_n_steps` steps, and at the end of training. It
    is also written when a process of the run receives SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or SIGHUP (a closed terminal):
    the current step ends, the file is written, and the run exits with status 128 + the signal's number. A resumed run
    repeats a validation that was cut off. On SLURM, a run that SIGUSR1 ended goes back into the queue.

    The old file stays until the new one is complete. A resumed run overwrites the checkpoint that it resumed from, if
    its name starts with last, and no other. `fast_dev_run` writes nothing.

    Args:
        every_n_steps: number of optimiser steps between two files; null: only at validations and at the end.
        grace: seconds to wait after a signal for the current step to end. If the step takes longer, the run exits
            without saving, and names the newest checkpoint.
    """

    def __init__(self, every_n_steps: int | None = None, grace: float = GRACE):
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} must be 1 or more, or null for validations alone")
        if not grace > 0:
            raise ValueError(f"grace={grace} must be more than 0 seconds")
        self.every_n_steps = every_n_steps
        self.signals = Signals(grace, self._newest)
        self.folder = self.file = Path()
        self.step, self.due = 0, False  # due: write a checkpoint once the last step has been logged
        self.held: FileLock | None = None
        self.planned, self.saves = 0, False  # saves: this callback is writing a checkpoint
        self.written: tuple[int, int] | None = None  # step of the file, and step of its last complete validation

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
        if stage == "fit" or trainer.world_size > 1:
            keep_lightnings_out(trainer)
        if stage == "fit":
            self.folder, self.planned, self.written = _folder(trainer), trainer.max_steps, None
            if trainer.is_global_zero and not trainer.fast_dev_run:
                self.held = hold(self.folder.parent)
                if not pl_module.resumed:
                    check_new(self.folder.parent, job=job_name())  # another process may have trained there meanwhile
            self.signals.listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step
        if trainer.is_global_zero and trainer.ckpt_path:
            self._set_aside(Path(trainer.ckpt_path))
        trainer.strategy.barrier()
        self.file = _file(self.folder, trainer.ckpt_path)
        if self.signals.received is not None and trainer.world_size == 1:
            self._end(trainer, self.signals.received)

    def _set_aside(self, start: Path) -> None:
        """Rename the checkpoints of later steps when a run restarts in its folder from an earlier step: otherwise they
        would be taken for its newest."""
        run = self.folder.parent
        if run_of(start.absolute()) != run.absolute():
            return
        for file in later_than(self.step, run):
            file.rename(left := free_name(file.with_name(f"{file.name}.left")))
            rank_zero_info(f"{file} is of a later step than {self.step}, where this run goes on: it is now {left}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # a micro-batch alone is no step
            return
        self.step = trainer.global_step
        if number := self.signals.asked():
            trainer._logger_connector.update_train_step_metrics()  # the step's own; Lightning does so after this hook
            self._save(trainer, pl_module)
            self._end(trainer, number)
        self.due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Save a step only after it has been logged, so that a resumed run has the complete curve."""
        if self.due:
            self._save(trainer, pl_module)
            self.due = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        if self.saves:
            checkpoint[PLANNED] = self.planned

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._trains(trainer):
            self._save(trainer, pl_module)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After a signal, end the run at once: the checkpoint was written before the validation."""
        if self._trains(trainer) and self.signals.received is not None and trainer.world_size == 1:
            self._end(trainer, self.signals.received)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._trains(trainer):
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if training ends before max_steps."""
        if 0 <= trainer.global_step < trainer.max_steps and not trainer.fast_dev_run:
            rank_zero_warn(
                f"the training ends at step {trainer.global_step} of {trainer.max_steps}: a limit of the trainer "
                "(max_time, max_epochs), early stopping or a callback asked for it. --resume goes on from its newest "
                "checkpoint; max_time counts all starts of a run together, so raise it then"
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._let_go()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._let_go()

    def _let_go(self) -> None:
        self.signals.forget()
        if self.held is not None:
            self.held.release()

    def _trains(self, trainer: L.Trainer) -> bool:
        return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = trainer.global_step, pl_module.validated_step
        if state != self.written and not trainer.fast_dev_run:
            self.saves = True
            try:
                trainer.save_checkpoint(self.file, weights_only=False)
            finally:
                self.saves = False
            self.written = state

    def _newest(self) -> str:
        if self.written is None:
            return "This run has written no checkpoint yet"
        return f"Its newest checkpoint is {self.file}, of step {self.written[0]}: go on with it by --resume"

    def _end(self, trainer: L.Trainer, number: int) -> None:
        """Raises Stopped. If Lightning started the other processes, it kills all as soon as one exits with a status
        other than 0. So the others exit with 0, and only the first one's status is seen."""
        place = f"stopped at step {trainer.global_step} of {trainer.max_steps}"
        rank_zero_info(f"{signal.Signals(number).name}: {place}. {self._newest()}")
        if number == signal.SIGUSR1 and trainer.is_global_zero and (job := slurm_job()):
            _requeue(job)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        raise Stopped(0 if isinstance(environment, LightningEnvironment) and trainer.local_rank else STATUS + number)


def _folder(trainer: L.Trainer) -> Path:
    """The folder where Lightning's ModelCheckpoint would put its files, whatever the logger."""
    logger = trainer.logger
    if logger is None:
        return Path(trainer.default_root_dir, CHECKPOINTS)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version, CHECKPOINTS)


def _file(folder: Path, start: str | Path | None) -> Path:
    """The checkpoint that training resumed from, if it is this folder's and its name starts with last; else a free
    name."""
    if start is not None and Path(start).name.startswith("last") and Path(start).resolve().parent == folder.resolve():
        return folder / Path(start).name
    return free_name(folder / "last.ckpt")


def _requeue(job: str) -> None:
    """Ask SLURM to start the job again. Warns if SLURM does not: what was trained is saved all the same."""
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        rank_zero_warn(f"{' '.join(command)} has failed ({why}): start the job again by hand, with --resume")
