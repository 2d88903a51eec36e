"""Settings that change what a network computes but not its weights' shapes.

They are plain values by name, kept in every checkpoint and compared when one is loaded. Every plain attribute of every
module counts, such as the heads of an attention or the epsilon of a norm, unless NO_FUNCTION or OF_CLASSES names it; so
does the kind of a module without weights, such as an activation. A new argument is therefore compared from its first
day. A part with a method `settings` gives its own settings, for itself and all below it. Layers are merged:
`qformer.layers.*.attention.heads` is one value if all layers agree, else a list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from lit_blip2.signature import difference
from lit_blip2.terminal import first_few

# Names of attributes that are no settings, in any class.
NO_FUNCTION = {"training", "frozen", "checkpointing", "inplace", "label_smoothing", "attention_dropout"}
NO_FUNCTION |= {"hard_negatives", "hard_negatives_from", "gather_with_grad", "mean_of_ranks", "learn_begin"}
NO_FUNCTION |= {"prompt", "max_text_tokens", "tokenizer_path"}
# The same in these classes, or all classes of a module, and in their subclasses: attributes that matter in training
# alone, or that shapes show. In another class the same name may be a setting: a `weight` may be a factor, and
# num_tokens of a bridge that averages patches changes no shape.
OF_CLASSES = {
    "lit_blip2.objectives.": {"weight"},
    "torch.nn.modules.dropout.": {"p"},
    "torchvision.ops.stochastic_depth.": {"p"},
    "torch.nn.modules.activation.MultiheadAttention.": {"dropout"},
    "torch.nn.modules.rnn.": {"dropout"},
    "torch.nn.modules.linear.Linear.": {"in_features", "out_features"},
    "torch.nn.modules.normalization.LayerNorm.": {"normalized_shape", "elementwise_affine"},
    "torch.nn.modules.sparse.Embedding.": {"padding_idx", "scale_grad_by_freq", "sparse"}
    | {"num_embeddings", "embedding_dim"},
}
WEIGHTS = "weights"  # the last word of a setting that tells frozen weights apart, see signature.py
LOW_RANK = ".lora_"  # in the name of a weight that is a low-rank change of another
PLAIN = int | float | str | None


def settings(net: nn.Module) -> dict[str, Any]:
    """The settings of a network, by name; a part that occurs in it twice is listed once."""
    found: dict[str, list[Any]] = {}
    _collect(net, "", found, set())
    return {name: values[0] if all(each == values[0] for each in values) else values for name, values in found.items()}


def _collect(part: Any, place: str, found: dict[str, list[Any]], seen: set[int]) -> None:
    """Add the settings of a module, or of an object that has settings of its own, under its path."""
    seen.add(id(part))
    if hasattr(part, "settings"):
        own, children = part.settings(), {}
    else:
        left_out = _left_out(type(part))
        own = {name: value for name, value in vars(part).items() if name[0] != "_" and name not in left_out}
        children = dict(part.named_children()) | {k: v for k, v in own.items() if hasattr(v, "settings")}
    for name, value in own.items():
        if name not in children and is_plain(value := _named(value)):
            found.setdefault(place + name, []).append(value)
    for name, child in children.items():
        if _is_activation(child):
            found.setdefault(place + name, []).append(type(child).__name__)
        if id(child) not in seen:
            _collect(child, f"{place}{'*' if name.isdigit() else name}.", found, seen)


@cache
def _left_out(kind: type) -> set[str]:
    """Names of attributes of a class that are no settings."""
    # An objective (objectives/objective.py) may be a class of the user's own, and is known by its methods.
    found = NO_FUNCTION | ({"weight"} if hasattr(kind, "passes") and hasattr(kind, "loss") else set())
    for each in kind.__mro__:
        place = f"{each.__module__}.{each.__qualname__}."
        found = found.union(*(names for begin, names in OF_CLASSES.items() if place.startswith(begin)))
    return found


def _is_activation(part: Any) -> bool:
    """Whether it is one of torch's modules that has no weights and is no dropout."""
    plain = _is_torchs(part) and not isinstance(part, nn.Dropout)
    return plain and not [*part.children(), *part.parameters()]


def _is_torchs(part: Any) -> bool:
    return type(part).__module__.startswith("torch.nn.modules")


def _named(value: Any) -> Any:
    """A value as a checkpoint can keep it: functions and classes by their names, numpy's numbers as numbers, sequences
    and sets as lists, dataclasses as dicts, and what else is Python's or torch's, such as a range or a dtype, as
    text."""
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _named(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_named(each) for each in value]
    if isinstance(value, Enum | range | slice | complex | bytes | torch.dtype):
        return str(value)
    return getattr(value, "__name__", value) if callable(value) and not isinstance(value, nn.Module) else value


def is_plain(value: Any) -> bool:
    """Whether a value can be kept in a checkpoint and compared."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return all(map(is_plain, value)) if isinstance(value, list) else isinstance(value, PLAIN)


def check_same(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    what: str,
    state: Iterable[str] = (),
    allowed: Sequence[str] = (),
    way_out: str = "Use those settings",
) -> list[str]:
    """Raise ValueError unless a checkpoint's settings are this network's; every difference is named with both values.

    A setting that only one of them has is not compared: the other has no such part, or was written before the setting
    existed. A part therefore names all its settings, those too that were left at their defaults.

    Args:
        theirs: settings of the checkpoint.
        ours: settings of this network.
        what: what errors call the checkpoint.
        state: names of the weights in the checkpoint; these need not be those of this network's files.
        allowed: names, or ends of names, of settings that may differ.
        way_out: what an error tells the user to do.

    Returns: the differences that were allowed, in words.
    """
    for name in allowed:
        if not any(_is_named(each, name) for each in (*ours, *theirs)):
            raise ValueError(f"allow_different names {name!r}, which is no setting of this network: {', '.join(ours)}")
    brought = [f"{key}." for key in state if LOW_RANK not in key]
    differing = {
        name: told
        for name in theirs
        if name in ours and not _is_brought(name, brought) and (told := _difference(name, theirs[name], ours[name]))
    }
    expected = [name for name in differing if any(_is_named(name, each) for each in allowed)]
    if refused := [said for name, said in differing.items() if name not in expected]:
        raise ValueError(f"{what} was made with other settings: {first_few(refused, 10, '; ')}. {way_out}")
    return [differing[name] for name in expected]


def _difference(name: str, theirs: Any, ours: Any) -> str:
    """How two values of a setting differ, in words; empty where they do not."""
    if name.rpartition(".")[2] == WEIGHTS:
        told = difference(theirs, ours)
        return told and f"{name} {told}"
    return "" if theirs == ours else f"{name} {_shown(theirs)}, here {_shown(ours)}"


def _is_named(setting: str, name: str) -> bool:
    """Whether a name, which may leave out the beginning, means a setting."""
    return f".{setting}".endswith(f".{name}")


def _is_brought(name: str, state: Sequence[str]) -> bool:
    """Whether a setting is the signature of weights that the checkpoint itself holds."""
    part = f"net.{name.removesuffix(WEIGHTS)}"
    return name.endswith(f".{WEIGHTS}") and any(key.startswith(part) for key in state)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
