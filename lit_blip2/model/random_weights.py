"""Random weights for `weights: random`: the same ones each time, with a warning at every start."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

RANDOM = "random"


def tell_random(what: str, why: str) -> None:
    """Warn that `what` has random weights; why: the setting that asks for them, or the file that says so."""
    warnings.warn(f"{what} has RANDOM weights ({why}): for trials, not for metrics", stacklevel=3)


@contextmanager
def same_each_time() -> Iterator[None]:
    """Weights made in this context are the same on every rank and at every start. The random state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
