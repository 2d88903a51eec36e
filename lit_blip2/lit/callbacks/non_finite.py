"""An early end where a loss is not finite."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


class StopOnNonFinite(L.Callback):
    """Ends the run with an error that names step and batch when a loss is not finite.

    On a CPU before the weights are touched. On a device the losses are looked at together, every
    `log_every_n_steps` and before each checkpoint, because a look at every step would stall it. Weights that such a
    loss has touched get into no checkpoint, not that of `save_on_exception` either.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        step, image_ids_B = pl_module.last_batch
        self.seen.append((step, loss.detach(), image_ids_B))
        if loss.device.type == "cpu" or len(self.seen) >= trainer.log_every_n_steps:
            self._look()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._look()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look()

    def _look(self) -> None:
        seen, self.seen = self.seen, []
        if not seen:
            return
        finite = torch.stack([loss for _, loss, _ in seen]).isfinite().tolist()
        if not all(finite):
            step, loss, image_ids_B = bad = seen[finite.index(False)]
            self.seen = [bad] if loss.device.type != "cpu" else []
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}, images {image_ids_B.tolist()[:8]}...: lower the learning "
                "rate, lengthen the warm-up, or train in bf16-mixed or 32-true instead of 16-mixed"
            )
