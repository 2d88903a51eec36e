"""EMA: an exponential moving average of the trained weights, which is validated and saved instead of the weights."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_blip2.checkpoint import check_fits, trainable_state


class EMA(L.Callback):
    """Exponential moving average of the trained weights: validation, checkpoints and `test` use the average.

    After every optimiser step the average moves by 1 - decay towards the weights. A checkpoint holds the average as
    its weights, and beside it the weights themselves, from which a resumed run continues. The average needs the memory
    of one more copy of the trained weights. Lightning's own averaging cannot be used here: it also averages frozen
    weights, and it starts before they are read.

    Weights and average each have their own memory, and the parameters point to one of them. So every checkpoint is
    correct, even if a validation fails or a signal ends it.

    Args:
        decay: decay of the average, between 0 and 1. The average covers about the last 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float = 0.999):
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} must lie between 0 and 1")
        self.decay, self.steps = decay, 0
        self.weights: dict[str, Tensor] = {}  # while the parameters point to the averages
        self.module: L.LightningModule | None = None
        self.resumed: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._now(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.resumed = state

    @torch.no_grad()
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the averages at the weights. In a resumed run the module holds the averages: put the weights back."""
        self.module, self.weights = pl_module, {}
        weights = trainable_state(pl_module)
        pl_module.averages = {name: weight.clone() for name, weight in weights.items()}
        if self.resumed:
            check_fits(self.resumed["weights"], weights, "what EMA kept of the weights")
            for name, weight in self.resumed["weights"].items():
                weights[name].copy_(weight)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the steps, which the trainer knows only now. A checkpoint written between a step and its averaging
        lacks that averaging: it is done here."""
        self.steps, self.resumed = self.resumed.get("steps", trainer.global_step), {}
        self._average(trainer.global_step, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._average(trainer.global_step, pl_module)

    @torch.no_grad()
    def _average(self, step: int, pl_module: L.LightningModule) -> None:
        if step > self.steps:  # a micro-batch alone is no step
            torch._foreach_lerp_(list(pl_module.averages.values()), list(self._now().values()), 1 - self.decay)
            self.steps = step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.weights = self._now()
            _point(pl_module, pl_module.averages)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _point(pl_module, self.weights)
        self.weights = {}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    def _now(self) -> dict[str, Tensor]:
        """The weights, also while the parameters point to the averages. Raises ValueError if a parameter is gone."""
        if self.weights or self.module is None:
            return self.weights
        try:
            return {name: self.module.get_parameter(name).detach() for name in self.module.averages}
        except AttributeError as error:
            raise ValueError(
                f"EMA averages weights of a layer that is gone or renamed ({error}): change layers in the setup()"
                " of a class of your own, named by model.class_path, which every command calls"
            ) from error


def _point(module: L.LightningModule, state: Mapping[str, Tensor]) -> None:
    """Point the parameters to the tensors in `state`."""
    for name, memory in state.items():
        module.get_parameter(name).data = memory
