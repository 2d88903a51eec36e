"""Finds the module of a network where the first NaN or infinity arises, in forward and in backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn


@dataclass
class Origin:
    """Where the first non-finite number arose.

    forward: name of the first module with a non-finite output. backward: name of the first module, in the order of the
    backward pass, whose output has a non-finite gradient. None if there is none.
    """

    forward: str | None = None
    backward: str | None = None


@contextmanager
def watched(net: nn.Module) -> Iterator[Origin]:
    """Context in which forward and backward of `net` record where NaN or infinity first arises.

    Slow, because every module's output is checked. A module whose weights are used without calling it is not checked.
    """
    origin = Origin()
    hooks = [part.register_forward_hook(partial(_look, origin, name)) for name, part in net.named_modules() if name]
    try:
        yield origin
    finally:
        for hook in hooks:
            hook.remove()


def _look(origin: Origin, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    for each in _tensors(output):
        if origin.forward is None and not each.isfinite().all():
            origin.forward = name
        if each.requires_grad:
            each.register_hook(partial(_look_back, origin, name))


def _look_back(origin: Origin, name: str, grad: Tensor | None) -> None:
    if origin.backward is None and grad is not None and not grad.isfinite().all():
        origin.backward = name


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a module's output."""
    if isinstance(value, Tensor):
        yield from [value] if value.is_floating_point() else []
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _tensors(getattr(value, each.name))
