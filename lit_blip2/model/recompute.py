"""Trades compute for memory: autograd stores a function that makes an activation again, not the activation."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def recomputed(makers: list[tuple[Tensor, Callable[[], Tensor]]]) -> saved_tensors_hooks:
    """Context in which autograd, asked to keep one of these tensors for the backward, keeps its function instead.

    For tensors that are large and quick to make again from others that are kept anyway. What a function reads must not
    change before the backward.
    """
    by_place = {_place(made): make for made, make in makers}

    def pack(kept: Tensor) -> Tensor | Callable[[], Tensor]:
        # Detached: an operation that keeps its own output would hold itself, and all before it, until a backward.
        return by_place.get(_place(kept)) or kept.detach()

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return kept()

    return saved_tensors_hooks(pack, unpack)


def _place(x: Tensor) -> tuple:
    # The storage and not the address, which fake tensors lack; its number, which does not keep it alive.
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape
