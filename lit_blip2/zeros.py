"""Finds weights that are all zeros, as a file system leaves them after the end of a copy that was cut off.

A single zero matrix may be right: a gate, or an output that is added to its input, begins at zero and may stay there. A
block that is all zeros, norms and biases too, is never right, and neither is an embedding that is the same for all
words, or pixels.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from lit_blip2.contents import DataError
from lit_blip2.terminal import first_few

FIRST = 1024  # numbers that are looked at before all of them are
BLOCK = re.compile(r"(?:.*\.)?\d+\.")  # the beginning of a name, up to the number of its innermost block
SHOWN = 3  # names in a message
WAY_OUT = "the file was probably cut off while it was copied: get it again"


def check_zeros(weights: Mapping[str, Tensor], source: str | Path, never: Collection[str] = ()) -> None:
    """Warns of matrices that are all zeros. never: names of weights that are never zero.

    Raises DataError if one of these is all zeros, or a whole block of matrices and vectors.
    """
    held = {name: value for name, value in weights.items() if value.is_floating_point() and not value.is_meta}
    zero = {name for name, value in held.items() if _is_zero(value)}
    if lost := [name for name in never if name in zero]:
        raise DataError(f"{source}: all zeros: {first_few(lost, SHOWN)}: {WAY_OUT}")
    matrices = [name for name, value in held.items() if name in zero and _is_matrix(value)]
    for block in dict.fromkeys(found[0] for name in matrices if (found := BLOCK.match(name))):
        names = [name for name in held if (found := BLOCK.match(name)) and found[0] == block]
        kinds = [_is_matrix(held[name]) for name in names]  # a placeholder expert has no vector
        if zero.issuperset(names) and sum(kinds) > 1 and not all(kinds):
            raise DataError(f"{source}: all zeros: the {len(names)} weights of {block}*: {WAY_OUT}")
    if told := [name for name in matrices if "lora_" not in name]:  # a low-rank change's second matrix begins at zero
        warnings.warn(f"{source}: all zeros: {first_few(told, SHOWN)}. Unless this is meant, {WAY_OUT}", stacklevel=3)


def _is_matrix(value: Tensor) -> bool:
    return sum(size > 1 for size in value.shape) > 1


def _is_zero(value: Tensor) -> bool:
    """Whether there are numbers and all of them are zero. The first few are looked at first: mostly they decide."""
    flat = value.detach().flatten()
    return len(flat) > 0 and not flat[:FIRST].any() and not flat.any()
