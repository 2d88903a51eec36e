"""Where in a network the first number arises that is not finite, forward and backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn


@dataclass
class Origin:
    """Names of the first module whose output is not finite, and of the first, in the order of the backward, whose
    output's gradient is not; None where there is none."""

    forward: str | None = None
    backward: str | None = None


@contextmanager
def watched(net: nn.Module) -> Iterator[Origin]:
    """Within it, forward and backward of a network note where they first meet nan or inf. Slow: every module's output
    is looked at. A module that is not called, whose weights alone are used, is not seen."""
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
    """The floating tensors in what a module gives back."""
    if isinstance(value, Tensor):
        yield from [value] if value.is_floating_point() else []
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _tensors(getattr(value, each.name))
