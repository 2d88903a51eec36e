"""Signatures tell the weights of one frozen network from those of another, in whichever float type they are held.

A signature is plain, so that a checkpoint can keep it: a digest of signs, and of each weight its norm and a few of its
numbers. Older checkpoints hold the digest alone, as a string.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

SIGNS, NUMBERS = 64, 8  # taken of each weight
AT_ONCE = 1 << 20  # numbers that are summed in float64 at a time
# Relative tolerance: one rounding step of the float type. float32's is larger, to allow the noise of weights that were
# resampled on another machine.
TOLERANCES = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 1e-5}
SMALLEST = 1e-7  # absolute: half of float16's smallest step, and a little more


def signature(weights: Iterable[Tensor]) -> dict[str, Any]:
    """The signature of weights, floating-point: {"signs": digest, "numbers": of each weight [norm, number, ...]}."""
    digest, numbers = hashlib.sha256(), []
    for each in weights:
        flat = each.detach().flatten()
        digest.update(bytes(torch.signbit(_spread(flat, SIGNS)).cpu().tolist()))
        numbers.append(numbers_of(each))
    return {"signs": digest.hexdigest()[:16], "numbers": numbers}


def numbers_of(weight: Tensor) -> list[float]:
    """The norm of a weight, floating-point, and a few of its numbers."""
    flat = weight.detach().flatten()
    return [_norm(flat), *_spread(flat, NUMBERS).tolist()]


def difference(theirs: Any, ours: Any) -> str:
    """How two signatures differ, in words; empty where both are of the same weights.

    The same weights may be held in another of float32, float16 and bfloat16. Numbers are compared as closely as the
    coarser of both types allows, so a change below its rounding passes. An older signature tells signs alone.
    """
    theirs, ours = (each if isinstance(each, dict) else {"signs": each} for each in (theirs, ours))
    if "numbers" in theirs and "numbers" in ours:
        one, two = theirs["numbers"], ours["numbers"]
        if [*map(len, one)] != [*map(len, two)]:
            return f"of {len(one)} weights, here {len(two)}, or of other sizes"
        if other := [place for place, pair in enumerate(zip(one, two)) if not _close(*pair)]:
            first = other[0]
            norms = f"norm {one[first][0]:.6g}, here {two[first][0]:.6g}"
            return f"of other numbers in {len(other)} of {len(one)} weights, the first is weight {first} ({norms})"
    return "" if theirs["signs"] == ours["signs"] else "of other signs"


def norm(weights: Iterable[Tensor]) -> float:
    """The Euclidean norm of all of them."""
    return math.hypot(*(_norm(each.detach().flatten()) for each in weights))


def _spread(flat: Tensor, count: int) -> Tensor:
    """`count` numbers of a weight, evenly spread over it."""
    return flat[:: max(1, len(flat) // count)][:count]


def _norm(flat: Tensor) -> float:
    """The Euclidean norm, summed in parts, because a float64 copy of the whole would be large."""
    return math.sqrt(sum(float(part.double().square().sum()) for part in flat.split(AT_ONCE)))


def _close(one: Sequence[float], two: Sequence[float]) -> bool:
    """Whether [norm, number, ...] of one weight are those of another, up to the rounding of the coarser."""
    tolerance = max(_tolerance(one[1:]), _tolerance(two[1:]))
    return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=SMALLEST) for a, b in zip(one, two))


def _tolerance(numbers: Sequence[float]) -> float:
    """The tolerance of the coarsest float type that holds all these numbers exactly."""
    numbers_N = torch.tensor(numbers, dtype=torch.float64)
    return next(
        (tolerance for dtype, tolerance in TOLERANCES.items() if torch.equal(numbers_N.to(dtype).double(), numbers_N)),
        TOLERANCES[torch.float32],
    )
