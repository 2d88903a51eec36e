"""Reads and checks checkpoints. They hold what trains and the resolved config, but no frozen weights and no pickled
objects. Anything that does not fit exactly raises an error that names it."""

import pickle
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_blip2.config import Experiment, from_text
from lit_blip2.contents import DataError, check_no_pointer
from lit_blip2.pixels import UNNOTED
from lit_blip2.runs import is_whole, newest_checkpoint, run_of
from lit_blip2.settings import LOW_RANK
from lit_blip2.terminal import first_few

MOST_REPEATED = 1_000_000  # a tensor may have so many numbers more than its file holds
# Key of a checkpoint -> type of its value.
KINDS = {"state_dict": dict, "settings": dict, "callbacks": dict, "loops": dict, "global_step": int}
KINDS |= {"validated_step": int, "validation_due": bool, "optimizer_states": list, "lr_schedulers": list}
MOST_STEPS = 2**53


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """State-dict entries of all parameters that train, also of those that a callback has frozen for a while. Weights
    that a frozen model reads from its files are left out; their low-rank changes (LoRA) are kept."""
    parts = [part for part in module.modules() if getattr(part, "frozen", False) is True]
    files = {id(p) for part in parts for name, p in part.named_parameters() if LOW_RANK not in f".{name}"}
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad or id(p) not in files}


def check_statistics(net: nn.Module) -> None:
    """Raise ValueError if training would change running statistics, because no checkpoint holds them."""
    for name, part in net.named_modules():
        if part.training and getattr(part, "running_mean", None) is not None:
            raise ValueError(
                f"net.{name}, a {type(part).__name__}, keeps running statistics, and a checkpoint holds what gradients "
                "train: use LayerNorm or GroupNorm there, or track_running_stats=False"
            )


def check_fits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise ValueError unless `state` has exactly the keys and shapes of `wanted`. The error names all problems."""
    problems = [f"missing {key}" for key in wanted if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(state[key].shape)}, the model's is {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    problems += [
        f"{key} is of {state[key].dtype}, the model's is of {wanted[key].dtype}"
        for key in wanted
        if key in state and _kind(state[key]) != _kind(wanted[key])
    ]
    if problems:
        shown = first_few(problems, 10, "; ")
        raise ValueError(f"{what} does not fit this model: {shown}. Use the config.yaml of the run that wrote it")


def _kind(value: Tensor) -> tuple[Any, ...]:
    """What must be equal for one tensor to replace another: whether it is floating, complex, and its layout."""
    return value.is_floating_point(), value.is_complex(), value.layout


def read_checkpoint(path: str | Path) -> dict:
    """The contents of a checkpoint; tensors and plain containers only, no code is run.

    Raises DataError for a file that is damaged or was not written by this package.
    """
    file = newest_checkpoint(path)
    if not is_whole(file):
        raise DataError(f"{file} is damaged: its contents are not what was written. Use another checkpoint of the run")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{file} is not a readable checkpoint: give a .ckpt file that fit has written") from error
    check_held(checkpoint, file)
    _check_kinds(checkpoint, file)
    return checkpoint


def _check_kinds(checkpoint: Any, file: Path) -> None:
    """Raises DataError for parts of a checkpoint that are of another type than this package writes."""
    if not isinstance(checkpoint, dict) or checkpoint.get("state_dict") is None:
        raise DataError(f"{file} has no state_dict, so fit has not written it: give a .ckpt file of a run")
    if wrong := [name for name, kind in KINDS.items() if not isinstance(checkpoint.get(name), kind | None)]:
        raise DataError(f"{file}: {', '.join(wrong)} of the checkpoint have the wrong type: the file is damaged")
    if not all(isinstance(each, dict) for each in (checkpoint.get("callbacks") or {}).values()):
        raise DataError(f"{file}: callbacks of the checkpoint have states that are none: it is damaged")
    steps = {name: checkpoint[name] for name, kind in KINDS.items() if kind is int and name in checkpoint}
    if odd := [f"{name} {step}" for name, step in steps.items() if step is not None and not 0 <= step < MOST_STEPS]:
        raise DataError(f"{file}: {odd[0]:.80} is no number of steps: it is damaged")
    state = checkpoint["state_dict"]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise DataError(f"{file}: state_dict holds something else than tensors by name: it is damaged")


def check_held(contents: Any, file: Path) -> None:
    """Raises DataError for a tensor that has more elements than the file holds numbers for it, as a stride of 0 allows.
    MOST_REPEATED more are accepted, such as a scale for each of many rows."""
    for place, value in _tensors(contents):
        if value.layout is not torch.strided:
            continue
        held = value.untyped_storage().nbytes() // value.element_size()
        if value.numel() > held + MOST_REPEATED:
            raise DataError(
                f"{file}: {place} is {tuple(value.shape)}, and the file holds {held:,} numbers for it, which may be "
                f"repeated to {MOST_REPEATED:,} more: it is damaged, or made to fill the memory"
            )


def _tensors(contents: Any) -> Iterator[tuple[str, Tensor]]:
    """(place, tensor) for each tensor in nested containers, which may contain themselves."""
    seen, left = set(), [("", contents)]
    while left:
        place, value = left.pop()
        if isinstance(value, Tensor):
            yield place, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            inner = value.items() if isinstance(value, Mapping) else enumerate(value)
            left += [(f"{place}.{key}".lstrip("."), each) for key, each in inner]


def read_safely(file: Path) -> Any:
    """Load a file of torch, a .pth or .bin from anybody, on the CPU. No code in it is run.

    Raises DataError for a file that is damaged, or holds more than tensors and plain containers.
    """
    check_no_pointer(file)
    try:
        with torch.serialization.safe_globals([Namespace]):  # timm's training checkpoints hold their arguments so
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # damaged in one of many ways, or a pickle that wants to run code
        code = isinstance(error, pickle.UnpicklingError) and "weights only" in str(error).lower()
        more = "it holds more than tensors; nothing in it was executed. Save its weights alone, as one state dict"
        reason = more + _way_out(str(error)) if code else "it is damaged, or another kind"
        raise DataError(f"{file} cannot be read: {reason}") from error


def _way_out(error: str) -> str:
    """How to save the weights alone, if the refused class tells which program wrote the file."""
    if "deepspeed" in error:
        return ": DeepSpeed's zero_to_fp32.py, which lies beside its checkpoints, does so"
    if "torch.distributed" in error:
        return ": these are parts of FSDP's or of DTensors, which FULL_STATE_DICT or full_state_dict=True joins"
    return ""


def unwrapped(content: Mapping[str, Any], wrappers: Sequence[str], file: Path) -> Mapping[str, Any]:
    """The weights in a training program's checkpoint: the value under the first of `wrappers` that it has, unwrapped
    again in the same way, else the whole. Warns if it has several, such as a model and its moving average."""
    found = [name for name in wrappers if isinstance(content.get(name), Mapping)]
    if len(found) > 1:
        warnings.warn(
            f"{file} holds {' and '.join(found)}: the weights of {found[0]} are read; to read others, save them alone",
            stacklevel=2,
        )
    return unwrapped(content[found[0]], wrappers, file) if found else content


def carried(checkpoint: Mapping, file: Path, allow: Sequence[str]) -> Experiment:
    """The experiment that a checkpoint carries; empty if it carries none. Paths of weights in its run's own folder are
    changed to where that folder is now. Older checkpoints do not note mean, standard deviation and filter of images:
    they get CLIP's. allow: names of classes that it may have besides this package's own, see trust.py. Raises
    ValueError."""
    experiment = from_text(checkpoint.get("config"), str(file))
    allow = [allow] if isinstance(allow, str) else allow
    experiment = replace(experiment, settings=at_home(experiment.settings, file), allow=tuple(allow))
    noted = any(name.endswith("vision.mean") for name in checkpoint.get("settings", ()))
    if (vision := experiment.vision) and not noted:
        vision |= {name: value for name, value in UNNOTED.items() if vision.get(name) is None}
    return experiment


def at_home(settings: Any, checkpoint: Path) -> Any:
    """A run's settings, with paths of weights in its own folder (as of an import) changed to where the folder is now.

    checkpoint: a file of RUN/version. A path that ends in weights/x becomes RUN/weights/x, if that exists.
    """
    if isinstance(settings, dict):
        return {key: at_home(value, checkpoint) for key, value in settings.items()}
    if isinstance(settings, list):
        return [at_home(value, checkpoint) for value in settings]
    parts = Path(settings).parts if isinstance(settings, str) else ()
    own = run_of(checkpoint.absolute()).parent.joinpath("weights", *parts[-1:])
    return str(own) if parts[-2:-1] == ("weights",) and own.exists() else settings


def qformer_state(checkpoint: Mapping, source: str | Path, qformer: nn.Module) -> dict[str, Tensor]:
    """The Q-Former's weights in a stage-1 checkpoint. Weights of its text half only count if `qformer` has them too.

    Raises ValueError for a checkpoint without a stage-1 Q-Former.
    """
    prefix = "net.qformer."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    if not state:
        raise ValueError(f"{source} holds no {prefix}* weights: a checkpoint of stage 1 is wanted here")
    places = qformer.state_dict().keys()
    return {key: value for key, value in state.items() if key in places or not is_text_half(key)}


def is_text_half(key: str) -> bool:
    """Whether a Q-Former weight belongs to its text half."""
    return ".text_mlp." in f".{key}" or key.startswith(("word_embeddings", "position_embeddings"))
