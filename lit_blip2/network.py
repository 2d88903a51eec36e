"""The network that an experiment's settings describe, without Lightning and without weights."""

from typing import Any

from torch import nn

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
