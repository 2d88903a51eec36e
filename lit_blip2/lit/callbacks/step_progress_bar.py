"""StepProgressBar: a progress bar on a terminal; in a log file, a line of progress every few seconds."""

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lit_blip2.terminal import duration, say

REFRESH_SECONDS = 0.5  # between two redraws of the bar, which read the losses: that makes a GPU wait
BAR = "{bar:20} {desc}"


def tell(text: str) -> None:
    """Print a text above a progress bar, if one is drawn."""
    with Tqdm.external_write_mode():
        say(text)


class StepProgressBar(TQDMProgressBar):
    """Shows the optimiser step, images per second, the time left and the losses:

        step 120 of 680, 353 images/s, 95 s left, loss_itc 1.921, loss_itm 0.653, loss_itg 2.986, loss_total 5.560

    Images per second count the global batch, without the time of validations. The time left is estimated from all the
    time since training began, validations included.

    Args:
        seconds: seconds between two lines if standard output is not a terminal. Training also ends with a line.
    """

    def __init__(self, seconds: float = 30.0):
        super().__init__()
        self.seconds = seconds
        self.draws = sys.stdout.isatty()
        self._shown_at, self._shown_step = 0.0, -1
        self._began = self._resumed_at = 0.0
        self._first_step, self._trained, self._pauses = 0, 0.0, False

    @property
    def is_disabled(self) -> bool:
        """Whether tqdm draws nothing."""
        return not (self.is_enabled and self.draws)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._shown_at = time.monotonic()

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        tell(sep.join(map(str, args)))

    def init_train_tqdm(self) -> Tqdm:
        return Tqdm(disable=self.is_disabled, dynamic_ncols=True, file=sys.stdout, bar_format=BAR)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start()
        self._began = self._resumed_at = self._shown_at = time.monotonic()
        self._first_step, self._trained, self._pauses = trainer.global_step, 0.0, False
        if (total := trainer.max_steps) > 0:
            self.train_progress_bar.total = total

    def on_train_epoch_start(self, *_: Any) -> None:
        """Nothing to do: the bar counts steps, not epochs."""

    on_train_epoch_end = on_train_epoch_start

    def on_train_batch_start(self, *_: Any) -> None:
        if self._pauses:
            self._resumed_at, self._pauses = time.monotonic(), False

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._is_due():
            self._show(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.is_enabled and trainer.global_step > max(self._shown_step, self._first_step):
            self._show(trainer)
        super().on_train_end()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self._trained, self._pauses = self._seconds_trained(), True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.val_progress_bar.close()
        self.reset_dataloader_idx_tracker()

    def on_validation_batch_end(self, *given: Any) -> None:
        super().on_validation_batch_end(*given)
        self._show_batches("validation", given, self.total_val_batches_current_dataloader)

    def on_test_batch_end(self, *given: Any) -> None:
        super().on_test_batch_end(*given)
        self._show_batches("test", given, self.total_test_batches_current_dataloader)

    def on_predict_batch_end(self, *given: Any) -> None:
        super().on_predict_batch_end(*given)
        self._show_batches("predict", given, self.total_predict_batches_current_dataloader)

    def _seconds_trained(self) -> float:
        """Seconds spent on training, without validations and the pictures that follow them."""
        return self._trained + (0.0 if self._pauses else time.monotonic() - self._resumed_at)

    def _is_due(self) -> bool:
        """Whether it is time to show progress; if so, the wait starts again."""
        now = time.monotonic()
        due = self.is_enabled and now - self._shown_at >= (REFRESH_SECONDS if self.draws else self.seconds)
        self._shown_at = now if due else self._shown_at
        return due

    def _show(self, trainer: L.Trainer) -> None:
        self._shown_step = trainer.global_step
        said = ", ".join(self.standing(trainer))
        if self.draws:
            self.train_progress_bar.n = trainer.global_step
            self.train_progress_bar.set_description_str(said)
        else:
            tell(said)

    def _show_batches(self, what: str, given: tuple, total: float) -> None:
        """Print a line of progress of an evaluation, unless tqdm draws a bar on a terminal. given: the hook's
        arguments."""
        if not self.draws and self._is_due():
            batch_idx = given[4]
            tell(f"{what}: batch {batch_idx + 1}" + (f" of {total}" if math.isfinite(total) else ""))

    def standing(self, trainer: L.Trainer) -> list[str]:
        """The parts of a line of progress, in order."""
        step, total, now = trainer.global_step, trainer.max_steps, time.monotonic()
        done, parts = step - self._first_step, [f"step {step}" + (f" of {total}" if total > 0 else "")]
        images, trained = getattr(trainer.datamodule, "batch_size", None), self._seconds_trained()
        if images and done and trained:
            parts.append(f"{float(f'{done * images / trained:.3g}'):g} images/s")
        if done and step < total:
            parts.append(f"{duration((now - self._began) / done * (total - step))} left")
        losses = trainer.progress_bar_metrics
        return parts + [f"{name.removeprefix('train/')} {value:.3f}" for name, value in losses.items()]
