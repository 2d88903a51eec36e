"""An exponential moving average of what trains: validated and kept in checkpoints in the place of the weights."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_blip2.checkpoint import trainable_state


class EMA(L.Callback):
    """After every optimiser step each average moves by 1 - decay towards its weight.

    Lightning's own averages frozen weights too, and begins before any is read. Validation sees the averages, a
    checkpoint holds them as its weights (`test`, `init_from` and `export` read those), and beside them the weights
    themselves, from which a resumed run goes on. Costs a copy of what trains.

    Args:
        decay: of the average, which is that of the last 1 / (1 - decay) steps or so.
    """

    def __init__(self, decay: float = 0.999):
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} must lie between 0 and 1")
        self.decay, self.steps = decay, 0
        self.weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]

    @torch.no_grad()
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The module has what training starts from or, resumed, the averages."""
        resumed, self.weights = self.weights, trainable_state(pl_module)
        pl_module.averages = {name: weight.clone() for name, weight in self.weights.items()}
        for name, weight in resumed.items():
            self.weights[name].copy_(weight)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only now does the trainer know how many steps a resumed run has taken."""
        self.steps = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step > self.steps:  # a micro-batch alone is no step
            self.steps = trainer.global_step
            averages, weights = list(pl_module.averages.values()), list(self.weights.values())
            torch._foreach_lerp_(averages, weights, 1 - self.decay)

    @torch.no_grad()
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Averages and weights change places, and back at the end."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for name, weight in self.weights.items():
            kept = weight.clone()
            weight.copy_(pl_module.averages[name])
            pl_module.averages[name].copy_(kept)

    on_validation_end = on_validation_start
