"""AdamW with linear warm-up and cosine decay, both per optimiser step (docs/numerics.md, Optimisation)."""

import math
import re
from collections.abc import Mapping

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

ENCODER = ".vision.encoder."
BLOCK = re.compile(r"\.vision\.encoder\.blocks\.(\d+)\.")
UNDECAYED = ("query_tokens", "pos_embed", "cls_token")


class AdamWCosine:
    """AdamW with linear warm-up and cosine decay, for the trainable parameters of a module.

    Args:
        lr: peak learning rate.
        min_lr: learning rate at the end of the run.
        warmup_steps: optimiser steps in which the learning rate rises linearly from nearly 0 to lr. Must be below
            trainer.max_steps.
        betas: decay rates of AdamW's two moving averages.
        weight_decay: AdamW's weight decay for matrices. Biases, norms, the temperature, the query tokens, and the
            position embeddings and class token of a trained encoder have none.
        lr_scale: factors of the learning rate, by the start of a parameter's name, such as {net.bridge.projection:
            20}; null: none.
        layer_decay: of a trained image encoder with L blocks, block i (from 1) has the learning rate times
            layer_decay ** (L + 1 - i), and the layers before the blocks times layer_decay ** (L + 1), as in BEiT. 1:
            all layers have the same learning rate.
        hold_steps: number of steps for which the learning rate stays constant; then it drops to the cosine counted
            from the start of the run, as in LAVIS, which sets it once an epoch. 1: the learning rate falls at every
            step, and the cosine starts after the warm-up.
    """

    def __init__(
        self,
        lr: float = 1e-4,
        min_lr: float = 0.0,
        warmup_steps: int = 2000,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.05,
        lr_scale: Mapping[str, float] | None = None,
        layer_decay: float = 1.0,
        hold_steps: int = 1,
    ):
        if not 0 <= min_lr <= lr or lr == 0 or warmup_steps < 0:
            raise ValueError(
                f"lr={lr}, min_lr={min_lr}, warmup_steps={warmup_steps}: lr must be positive, min_lr between 0 and lr, "
                "warmup_steps not negative"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={list(betas)}: each must be at least 0 and less than 1")
        negative = {name: factor for name, factor in (lr_scale or {}).items() if not factor >= 0}
        if negative or not weight_decay >= 0:
            raise ValueError(
                f"weight_decay={weight_decay}, lr_scale={dict(lr_scale or {})}: neither may be negative, which would "
                "turn a step around"
            )
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay={layer_decay} must lie in (0, 1]; 1 is none")
        self.lr, self.min_lr, self.warmup_steps = lr, min_lr, warmup_steps
        self.betas, self.weight_decay, self.lr_scale = betas, weight_decay, dict(lr_scale or {})
        if hold_steps < 1:
            raise ValueError(f"hold_steps={hold_steps} must be at least 1, at which the rate falls at every step")
        if 1 < hold_steps < warmup_steps:
            raise ValueError(
                f"hold_steps={hold_steps} must not be less than warmup_steps={warmup_steps}: the rate would fall where "
                "it still rises; shorten the warm-up"
            )
        self.layer_decay, self.hold_steps = layer_decay, hold_steps

    def __call__(self, module: nn.Module, max_steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimiser and the schedule for a run of `max_steps` optimiser steps. Raises ValueError as `check` does,
        and for a name in lr_scale that no trainable parameter starts with."""
        self.check(max_steps)
        optimizer = AdamW(self.groups(module), lr=self.lr, betas=self.betas, fused=True)
        return optimizer, self.schedule(optimizer, max_steps)

    def check(self, max_steps: int) -> None:
        """Raises ValueError if max_steps is not set, or not above warmup_steps."""
        if max_steps < 1:
            raise ValueError("training is counted in optimiser steps: set trainer.max_steps")
        if self.warmup_steps >= max_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must be less than trainer.max_steps={max_steps}: "
                "lengthen the run, or set a shorter model.optimization.warmup_steps"
            )

    def check_scaled(self, module: nn.Module, not_yet: tuple[str, ...] = ()) -> None:
        """Raises ValueError for a name in lr_scale that no trainable parameter starts with. not_yet: how names of
        parts begin that have no parameters before their weights are read."""
        names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        used = {self._scaled_by(name) for name in names}
        unused = [each for each in self.lr_scale if each not in used and not f"{each}.".startswith(not_yet)]
        if unused:
            trained = sorted({".".join(name.split(".")[:3]) for name in names})
            raise ValueError(
                f"lr_scale names {', '.join(unused)}, and no trainable parameter begins so: name one of "
                f"{', '.join(trained)}, or set model.optimization.lr_scale to null"
            )

    def _scaled_by(self, name: str) -> str | None:
        """The name in lr_scale that a parameter goes by: the first that its own starts with."""
        return next((prefix for prefix in self.lr_scale if name.startswith(prefix)), None)

    def groups(self, module: nn.Module) -> list[dict]:
        """Parameter groups by weight decay and learning rate."""
        groups: dict[tuple[float, float], list] = {}
        self.check_scaled(module)
        decays = self._layer_decays(module)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                prefix = self._scaled_by(name)
                plain = parameter.ndim < 2 or name.endswith(UNDECAYED)
                lr = self.lr * self.lr_scale.get(prefix, 1.0) * decays.get(name, 1.0)
                groups.setdefault((0.0 if plain else self.weight_decay, lr), []).append(parameter)
        return [{"params": each, "weight_decay": decay, "lr": lr} for (decay, lr), each in groups.items()]

    def _layer_decays(self, module: nn.Module) -> dict[str, float]:
        """Parameter name -> learning rate factor, for the image encoder's parameters. Raises ValueError if layer_decay
        is set and the encoder is frozen."""
        own = [name for name, p in module.named_parameters() if p.requires_grad and ENCODER in f".{name}"]
        if self.layer_decay == 1:
            return {}
        if not own:
            raise ValueError(f"layer_decay={self.layer_decay} and the image encoder is frozen: set it to 1")
        block_of = {name: int(found[1]) + 1 if (found := BLOCK.search(f".{name}")) else 0 for name in own}
        top = max(block_of.values()) + 1
        return {name: self.layer_decay ** (top - block) for name, block in block_of.items()}

    def schedule(self, optimizer: Optimizer, max_steps: int) -> LRScheduler:
        """The schedule that multiplies each group's learning rate with `share`, which depends on the step alone."""
        return LambdaLR(optimizer, lambda step: self.share(step, max_steps))

    def share(self, step: int, max_steps: int) -> float:
        """Learning rate of a step over its peak: (step + 1) / (warmup_steps + 1), then a cosine down to min_lr / lr."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.hold_steps > 1:
            done = min(1.0, step // self.hold_steps * self.hold_steps / max_steps)
        else:
            done = min(1.0, (step - self.warmup_steps) / (max_steps - self.warmup_steps))
        floor = self.min_lr / self.lr
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
