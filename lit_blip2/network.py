"""The network that an experiment's settings describe, without Lightning and without weights; and what of it trains."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lit_blip2.objectives.joint import Joint
from lit_blip2.objectives.stage1 import Stage1
from lit_blip2.objectives.stage2 import Stage2


def build_net(settings: dict[str, Any]) -> nn.Module:
    """Stage1, Stage2 or Joint from `model.init_args.net` of an experiment; on the device of `torch.device(...)`.

    Raises ValueError for settings that do not fit, and what the parts raise.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    given = settings.get("init_args", settings)
    kind = Joint if "lm" in given else Stage2 if "language" in given else Stage1
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=kind)
    try:
        return parser.instantiate(parser.parse_object({"net": settings})).net
    except ArgumentError as error:
        raise ValueError(f"the settings of the network do not fit: {error}") from error


class NoDraws(TorchFunctionMode):
    """Meta tensors hold no numbers: leaving normal_ out spares its imports, half of the command's time."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ == "normal_":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def sketch(experiment: dict) -> nn.Module:
    """The network of an experiment's YAML on the meta device: no memory, no weights.

    Raises ValueError for a YAML without a network, or with one that does not fit.
    """
    net = experiment
    for key in ("model", "init_args", "net"):
        net = net.get(key) if isinstance(net, dict) else None
    if net is None:
        raise ValueError("no model.init_args.net in these settings: give an experiment's, see experiments/")
    with torch.device("meta"), NoDraws():
        return build_net(net)


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
    """A part whose network `load()` would make: it knows its size before."""
    if not part.frozen:
        return name, part.num_parameters, 0
    return name, getattr(part, "num_lora", 0), part.num_parameters
