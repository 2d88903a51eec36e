"""Builds the network of an experiment, without Lightning and without weights, and counts what trains."""

import traceback
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import nn
from torch.overrides import TorchFunctionMode

from lit_blip2.checkpoint import carried
from lit_blip2.complaints import reason
from lit_blip2.config import Experiment, class_path, foreign_arguments
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.lora import lora_settings
from lit_blip2.model.timm_network import asks_for_same
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.joint import Joint
from lit_blip2.objectives.stage1 import Stage1
from lit_blip2.objectives.stage2 import Stage2
from lit_blip2.settings import check_same, settings
from lit_blip2.trust import NotAllowedError, check_fetches_nothing, importing_only

# The annotations of `net` in this package's own modules, so that `params` and `ask` need not import Lightning.
OWN = {"lit_blip2.lit.LitStage1": Stage1, "lit_blip2.lit.LitStage2": Stage2, "lit_blip2.lit.LitJoint": Joint}

OPTIMISER = "lit_blip2.lit.optim.AdamWCosine"  # the one class of a checkpoint that belongs to no network
ENCODER = "image encoder "  # stands before the name of a random part


def network_class(experiment: Experiment) -> type[nn.Module]:
    """The class of an experiment's network: the annotation of `net` in its LightningModule.

    Raises ValueError for an experiment that names no LightningModule, one without such an annotation, or one that it
    may not name (see trust.py).
    """
    path = class_path(experiment.settings.get("model"))
    if path in OWN:
        return OWN[path]
    if not path:
        raise ValueError(f"{experiment.source}: no model.class_path in it: name one, such as lit_blip2.lit.LitStage1")
    try:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--model", type=type[nn.Module])
        with importing_only(experiment.allow, experiment.source):
            module = parser.parse_object({"model": path}).model
    except (ArgumentError, ImportError, AttributeError) as error:
        raise ValueError(f"{experiment.source}: model.class_path {path!r} cannot be imported: {error}") from error
    if (found := annotated_network(module)) is None:
        raise ValueError(
            f"{experiment.source}: {path} must name the class of its network, as in __init__(self, net: Stage1)"
        )
    return found


def annotated_network(module: type) -> type[nn.Module] | None:
    """The annotation of `net` in a LightningModule's arguments; None if there is none."""
    for each in module.__mro__:  # a subclass may hand `net` on in its **kwargs
        if "net" in getattr(each.__init__, "__annotations__", {}):
            return get_type_hints(each.__init__)["net"]
    return None


def build_net(experiment: Experiment) -> nn.Module:
    """Build the network of an experiment, on the device of `torch.device(...)`. Its settings may name a subclass by
    class_path.

    Raises ValueError for an experiment without a network, with settings that do not fit, or with names that it may not
    have (see trust.py), and whatever the parts raise.
    """
    if (parts := experiment.model.get("net")) is None:
        raise ValueError(f"{experiment.source}: no model.init_args.net in it: give an experiment, see experiments/")
    return _built(experiment, parts, network_class(experiment))


def _built(experiment: Experiment, parts: Any, kind: type[nn.Module]) -> nn.Module:
    """Build a network, or a part of one, of class `kind` from its settings."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=kind)
    return _parsed(parser, experiment, {"net": parts}).net


def module_arguments(experiment: Experiment, kind: type, given: Collection[str] = ()) -> dict[str, Any]:
    """The arguments of a run's LightningModule, parsed for class `kind`, without `net` and those in `given`.

    Raises ValueError for arguments that do not fit, or that have names that they may not have (see trust.py).
    """
    left_out = {"net", *given}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "model", skip=left_out, instantiate=False)
    settings = {name: value for name, value in experiment.model.items() if name not in left_out}
    allow = None if experiment.allow is None else (*experiment.allow, OPTIMISER)
    return vars(_parsed(parser, replace(experiment, allow=allow), {"model": settings}).model)


def _parsed(parser: ArgumentParser, experiment: Experiment, settings: dict[str, Any]) -> Namespace:
    """Parse settings, and build their classes."""
    try:
        with importing_only(experiment.allow, experiment.source):
            _check_fetches_nothing(experiment, settings)
            given = parser.parse_object(settings)
            _check_fetches_nothing(experiment, given.as_dict())  # also what was inside strings
            return parser.instantiate(given)
    except NotAllowedError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        if isinstance(error, TypeError) and not _of_call(error):
            raise
        raise ValueError(
            f"{experiment.source}: the settings of the network do not fit: {reason(str(error))}"
        ) from error


def _of_call(error: TypeError) -> bool:
    """Whether the parser's own call of a class failed, as by an argument in dict_kwargs that it does not take."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("jsonargparse.")


def _check_fetches_nothing(experiment: Experiment, settings: Any) -> None:
    """Raises NotAllowedError if the settings of an experiment from elsewhere would fetch anything."""
    if experiment.allow is not None:
        way_out = "name it in a YAML of your own, and give the checkpoint by --ckpt_path"
        check_fetches_nothing(settings, experiment.source, way_out)


class NoDraws(TorchFunctionMode):
    """Skips normal_, as meta tensors hold no values: this saves its imports, half of the command's time."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ == "normal_":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def sketch(experiment: Experiment) -> nn.Module:
    """`build_net` on the meta device: no memory, no weights."""
    with torch.device("meta"), NoDraws():
        return build_net(experiment)


def sketch_encoder(experiment: Experiment) -> nn.Module:
    """Like `sketch`, a network with the experiment's image encoder alone. The files of the other parts may be
    missing."""
    if (parts := experiment.net.get("vision")) is None:
        raise ValueError(f"{experiment.source}: no image encoder in it")
    net = nn.Module()
    with torch.device("meta"), NoDraws():
        net.vision = _built(experiment, parts, VisionEncoder)
    return net


def random_parts(net: nn.Module) -> list[str]:
    """The names of frozen parts with random weights. Parts that train are left out: they do not stay random."""
    kinds = {ENCODER: VisionEncoder, "language model ": LanguageModel}
    parts = [(kind, part) for kind, of in kinds.items() for part in net.modules() if isinstance(part, of)]
    return [f"{kind}{part.name}" for kind, part in parts if part.random and part.frozen]


def settings_of_run(net: nn.Module, parts: Any, image_size: int | None) -> dict[str, Any]:
    """The settings that change a network's function but no shape, and its image size, as a checkpoint keeps them.
    parts: the network's settings in the run's configuration."""
    size = {} if image_size is None else {"image_size": image_size}
    return settings(net) | foreign_arguments(parts) | size


def check_kept(checkpoint: Mapping[str, Any], net: nn.Module, file: Path) -> None:
    """Raise ValueError if a network made from a checkpoint's own configuration has other settings than the checkpoint
    keeps: its frozen weights, or other files, have changed. Parts that are not loaded are compared as far as known."""
    kept = as_asked_here(checkpoint.get("settings", {}), ours := settings(net))
    check_same(kept, ours, str(file), checkpoint["state_dict"], way_out="Its files, or this package, changed")


def kept_settings(checkpoint: Mapping[str, Any], file: Path, allow: Sequence[str]) -> dict[str, Any]:
    """The settings of a checkpoint's network: those that it keeps or, if it keeps none, those of its configuration.

    Raises NotAllowedError if the configuration has names that are not in `allow`.
    """
    if "settings" in checkpoint:
        return _with_lora_defaults(checkpoint["settings"])
    experiment = carried(checkpoint, file, allow)
    size = {"image_size": experiment.data["image_size"]} if experiment.data.get("image_size") else {}
    if not experiment.net:
        return size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return settings(sketch(experiment)) | size
    except NotAllowedError:
        raise
    except (ValueError, OSError) as error:
        warnings.warn(f"{file}: its network cannot be made, so its settings are not compared: {error}", stacklevel=2)
        return size


def as_asked_here(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings. Its `model_args` of timm are replaced by this network's if both make the same encoder,
    for instance if one spells out a default."""
    told = dict(theirs)
    for place, args in ours.items():
        name = place.removesuffix("model_args") + "name"
        both = place.endswith("model_args") and place in theirs and theirs.get(name) == ours.get(name) is not None
        if both and asks_for_same(ours[name], theirs[place], args):
            told[place] = args
    return told


def _with_lora_defaults(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of LoRA: older checkpoints keep only the settings of low-rank changes that were given."""
    begins = {name[: name.index(".lora.") + len(".lora.")] for name in kept if ".lora." in name}
    return {begin + name: value for begin in begins for name, value in lora_settings({}).items()} | dict(kept)


def count(net: nn.Module) -> list[tuple[str, int, int]]:
    """(part, trainable, frozen) for each part of a network that has not been loaded."""
    rows = [_loaded_part("vision", net.vision)]
    stage1, stage2 = (net.stage1, net.stage2) if isinstance(net, Joint) else (net, net)
    children = {}
    if hasattr(stage2, "language"):
        rows.append(_loaded_part("language", stage2.language))
        children |= {f"bridge.{name}": part for name, part in stage2.bridge.named_children()}
        if own := list(stage2.bridge.parameters(recurse=False)):
            children["bridge"] = nn.ParameterList(own)
    if hasattr(stage1, "qformer"):
        children.pop("bridge.qformer", None)  # the same one
        children |= {"qformer": stage1.qformer} | stage1.objectives
    rows += [
        (name, sum(p.numel() for p in part.parameters()), 0) for name, part in children.items() if part is not None
    ]
    return rows


def _loaded_part(name: str, part: nn.Module) -> tuple[str, int, int]:
    """The row of a part whose network only `load()` makes. The part knows its size before."""
    if not part.frozen:
        return name, part.num_parameters, 0
    return name, getattr(part, "num_lora", 0), part.num_parameters
