"""Keeps NaN and infinity out of checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_blip2.terminal import first_few


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """The norm of all gradients that an optimiser is about to use: a scalar on their device, NaN or infinite if any
    is."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return nn.utils.get_total_norm(grads)


def not_finite(named: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity. Waits for the device once, and again only if there are any."""
    floats = {name: each for name, each in named.items() if each.is_floating_point() and each.numel()}
    if not floats or nn.utils.get_total_norm(list(floats.values()), torch.inf).isfinite():
        return []
    return [name for name, each in floats.items() if not each.isfinite().all()]


def check_finite(checkpoint: Mapping[str, Any]) -> None:
    """Raises FloatingPointError, which names the first tensors, if a checkpoint's weights, their averages, or its
    optimiser states hold NaN or infinity."""
    parts = {name: checkpoint.get(name) for name in ("state_dict", "optimizer_states")}
    parts["EMA"] = checkpoint.get("callbacks", {}).get("EMA")  # other callbacks start with an infinite best value
    if odd := not_finite(_tensors(parts, "")):
        raise FloatingPointError(
            f"step {checkpoint['global_step']} left numbers that are not finite in {first_few(odd, 3)}: no checkpoint "
            "is written of them, and the one before stays. Lower the learning rate, or lengthen the warm-up"
        )


def _tensors(contents: Any, place: str) -> dict[str, Tensor]:
    """The tensors in nested containers, by path."""
    if isinstance(contents, Tensor):
        return {place: contents}
    if isinstance(contents, list | tuple):
        contents = dict(enumerate(contents))
    below = contents.items() if isinstance(contents, Mapping) else ()
    return {name: each for key, value in below for name, each in _tensors(value, f"{place}.{key}".lstrip(".")).items()}
