"""Trades compute for memory: autograd stores a function that rebuilds an activation instead of the activation."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def recomputed(makers: list[tuple[Tensor, Callable[[], Tensor]]]) -> saved_tensors_hooks:
    """Context in which autograd stores a tensor's function for the backward pass, instead of the tensor.

    Use it for large tensors that are quick to rebuild from tensors that are kept anyway. What a function reads must not
    change before the backward pass.
    """
    by_place = {_place(made): make for made, make in makers}

    def pack(kept: Tensor) -> Tensor | Callable[[], Tensor]:
        # Detached: an operation that stores its own output would keep itself and its graph alive until the backward.
        return by_place.get(_place(kept)) or kept.detach()

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return kept()

    return saved_tensors_hooks(pack, unpack)


def _place(x: Tensor) -> tuple:
    # The storage's number, which does not keep it alive. Not its address, which fake tensors lack.
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape
