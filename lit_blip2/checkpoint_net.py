"""Builds the network of a checkpoint, with frozen and trained weights, and checks the settings of its use.

The checkpoint carries the configuration it was trained with: which network to build, where its frozen weights are, how
a question is phrased and how many beams search for the answer. The trainer is not needed.
"""

import math
from pathlib import Path
from typing import Any, get_args

from torch import nn

from lit_blip2.checkpoint import check_fits, trainable_state
from lit_blip2.config import Experiment
from lit_blip2.contents import DataError
from lit_blip2.contents import shown as described
from lit_blip2.network import build_net, check_kept
from lit_blip2.trust import NotAllowedError

# Settings of a checkpoint's configuration for its answers, images and texts: type, and least value.
KINDS = {"max_new_tokens": (int, 1), "num_beams": (int, 1), "length_penalty": (int | float, -1000)}
HOW = {f"{task}_{name}": kind for task in ("vqa", "caption") for name, kind in KINDS.items()} | {"question": (str, 0)}
SEES = {"image_size": (int | None, 1), "max_unknown_words": (int | float | None, 0)}
SEES |= {"eval_batch_size": (int, 1), "max_caption_words": (int, 1)}


def load_net(contents: dict[str, Any], experiment: Experiment, file: Path, vision: bool = True) -> nn.Module:
    """The network of a checkpoint, with frozen and trained weights. vision: whether to read the image encoder's too.
    Raises ValueError if the contents do not fit the experiment that the checkpoint carries."""
    try:
        net = build_net(experiment)
    except NotAllowedError:
        raise
    except ValueError as error:
        raise ValueError(f"a configuration that does not fit this version of the package: {error}") from error
    net.load(**({} if vision else {"vision": False}))
    state = {name.removeprefix("net."): value for name, value in contents["state_dict"].items()}
    check_fits(state, trainable_state(net), str(file))
    check_kept(contents, net, file)
    net.load_state_dict(state, strict=False)  # only frozen weights are missing: check_fits has checked
    return net


def check_settings(experiment: Experiment) -> None:
    """Raises ValueError for a checkpoint without a configuration, and DataError if its settings in HOW and SEES have
    another type or a value that is too small."""
    if "net" not in experiment.model or "image_size" not in experiment.data:
        raise ValueError(f"{experiment.source} carries no configuration: it must come from `python -m lit_blip2 fit`")
    for part, settings, kinds in (("model", experiment.model, HOW), ("data", experiment.data, SEES)):
        for name in kinds.keys() & settings.keys():
            _check_setting(settings[name], *kinds[name], f"{experiment.source}: {part}.{name}")


def check_writes(experiment: Experiment) -> None:
    """Raises ValueError for a checkpoint without a language model, before anything of it is read."""
    if "language" not in experiment.net:
        raise ValueError(
            f"{experiment.source} is a stage-1 checkpoint, which has no language model to answer with: train stage 2 "
            "from it (fit with --model.init_from) and give that run"
        )
    if "lm" in experiment.net and experiment.net["lm"] is None:
        raise ValueError(
            f"{experiment.source} comes from joint training with lm=null: its Q-Former speaks to no language model"
        )


def _check_setting(value: Any, kind: Any, least: int, where: str) -> None:
    """Raises DataError for a value of another kind, below the least, or not finite."""
    sound = isinstance(value, kind) and not isinstance(value, bool)
    if not sound or not (isinstance(value, str | None) or least <= value < math.inf):
        number = "a number" if float in get_args(kind) else "a whole number"
        wanted = "a text" if kind is str else f"{number} from {least}"
        raise DataError(f"{where} is {described(value)}, where {wanted} is wanted: get the run again, or train another")
