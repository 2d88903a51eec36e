"""A callback for runs that get a signal: it prints where they are, and waits there a little for it to come."""

import os
import time
from typing import Any

import lightning as L


class Told(L.Callback):
    """Prints a line at hooks of a fit. STUCK_AT in the environment: the step that does not end."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def _tell(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            print(line, flush=True)
            time.sleep(0.3)

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
