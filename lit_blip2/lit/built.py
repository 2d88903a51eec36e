"""Built, a record of a network as built: callbacks may change it afterwards, which no configuration shows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from lit_blip2.checkpoint import trainable_state
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.signature import numbers_of
from lit_blip2.terminal import first_few

BASE = ".base_layer."  # in the name of a weight that low-rank changes may be merged into for a while
Shapes = Mapping[str, tuple[int, ...]]
Told = Mapping[str, Sequence[float]]  # weight's name -> [norm, number, ...]; empty if it is not compared


class Built(NamedTuple):
    """A record of a network as built.

    held: name -> shape of each weight in checkpoints. frozen: path of each frozen part -> numbers that identify its
    weights. Checkpoints hold only a signature of these parts.
    """

    held: Shapes
    frozen: Mapping[str, Told]

    @classmethod
    def of(cls, module: nn.Module) -> "Built":
        held = {name: tuple(weight.shape) for name, weight in trainable_state(module).items()}
        frozen = {
            place: {name: _told(name, weight) for name, weight in part.named_parameters(place) if name not in held}
            for place, part in _signed_parts(module)
        }
        return cls(held, frozen)

    def check(self, module: nn.Module) -> None:
        """Raises ValueError if a frozen part has changed weights, or weights that would train, or if a checkpoint would
        have other names or shapes, which the same configuration could not read."""
        now = Built.of(module)
        for place, part in _signed_parts(module):
            before = self.frozen.get(place, {})
            _check_still_frozen(place, [name for name in before if name in now.held] or _untrained(place, part))
            _check_unchanged(place, before, now.frozen[place])
        _check_readable(self.held, now.held)


def _signed_parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Frozen parts that checkpoints identify by a signature, with their paths."""
    for place, part in module.named_modules():
        if getattr(part, "frozen", False) is True and getattr(part, "signature", None):
            yield place, part


def _told(name: str, weight: Tensor) -> Sequence[float]:
    """Numbers that identify a weight. Empty for weights that are not compared: quantised, sharded or BASE."""
    plain = type(weight.data) is Tensor and weight.is_floating_point()
    return numbers_of(weight) if plain and BASE not in name else ()


def _untrained(place: str, part: nn.Module) -> list[str]:
    """Weights of a frozen encoder that require gradients but never get any, whatever made them trainable."""
    if type(part).forward is not VisionEncoder.forward:
        return []
    return [name for name, weight in part.named_parameters(place) if weight.requires_grad]


def _check_still_frozen(place: str, freed: Sequence[str]) -> None:
    if freed:
        raise ValueError(
            f"{_shown(freed)} would train, and {place} is frozen by its configuration: set {_key(place)}.frozen=false, "
            "which trains it and keeps it in checkpoints; a callback may freeze what is to stay as it is"
        )


def _check_unchanged(place: str, before: Told, now: Told) -> None:
    """Raises ValueError if a frozen part's weights have changed. An encoder that was not loaded, because its features
    are cached, may be loaded later."""
    other = [name for name, told in now.items() if before and not _is_among(told, before, name)]
    if other or len(now) < len(before):
        raise ValueError(
            f"{_shown(other or list(before))} changed after the model was built: {place} is frozen, and no checkpoint "
            f"would hold that. Have these weights read from their files, by {_key(place)}.weights, or kept in "
            f"checkpoints, by {_key(place)}.frozen=false"
        )


def _is_among(told: Sequence[float], before: Told, name: str) -> bool:
    """Whether a weight is what it was. Under a new name: whether it equals any of the former weights."""
    candidates = [before[name]] if name in before else before.values()
    return any(len(told) == len(was) and all(map(_close, told, was)) for was in candidates)


def _close(one: float, two: float) -> bool:
    """Equal up to the order in which float64 numbers were summed."""
    return math.isclose(one, two, rel_tol=1e-9)


def _check_readable(before: Shapes, now: Shapes) -> None:
    more = [name for name in now if now[name] != before.get(name)]
    less = [name for name in before if name not in now]
    if more or less:
        raise ValueError(
            f"a checkpoint would hold {_shown(more)} and lack {_shown(less)}, since the layers were changed after the "
            "model was built: the same configuration could not read it. Change them in the setup() of a class of your "
            "own, named by model.class_path, which every command calls"
        )


def _key(place: str) -> str:
    return f"--model.net.{place.rpartition('.')[2]}"


def _shown(names: Sequence[str]) -> str:
    return first_few(names, 2) or "nothing"
