"""load: builds a Loaded from a checkpoint or a run's folder, and chooses its device and precision."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from lit_blip2 import words
from lit_blip2.checkpoint import carried, read_checkpoint
from lit_blip2.checkpoint_net import check_settings, check_writes, load_net
from lit_blip2.config import Experiment
from lit_blip2.evaluation.rules import precisions_of
from lit_blip2.loaded import MIXED, Loaded
from lit_blip2.runs import find_checkpoint


def load(
    run: str | Path,
    device: str | None = None,
    precision: str | None = None,
    allow: Sequence[str] = (),
    writes: bool = False,
) -> Loaded:
    """See lit_blip2.load. With `writes`, a run without a language model raises ValueError before weights are read."""
    on, file = _device(device), find_checkpoint(run)
    contents = read_checkpoint(file)
    experiment = carried(contents, file, allow)
    check_settings(experiment)
    if writes:
        check_writes(experiment)
    precision = _precision(precision, experiment)
    loaded = Loaded(load_net(contents, experiment, file), experiment, file, on, precision)
    if (net := loaded.stage2) is not None:
        for each in words.letters(net, (net.prompt, experiment.model.get("question", ""))):
            warnings.warn(each, stacklevel=3)
    return loaded


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={str(name)!r} is not available ({reason}): use device='cpu'") from error


def _precision(given: str | None, experiment: Experiment) -> str:
    """The precision by Lightning's name; None: the run's own. Raises ValueError for a precision not in MIXED."""
    own = {"trainer": experiment.trainer} if given is None else {"trainer": {"precision": given}}
    found = precisions_of(Experiment(own, experiment.source)).get("precision", "32-true")
    if found not in MIXED:
        whose = f"{experiment.source} was trained in" if given is None else "there is no"
        raise ValueError(f"{whose} precision {found!r}: give precision={' or '.join(map(repr, MIXED))}")
    return found
