"""Builds a LightningModule from a checkpoint and its configuration, for `load_from_checkpoint`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lit_blip2.checkpoint import carried, read_checkpoint
from lit_blip2.checkpoint_net import check_settings
from lit_blip2.config import STARTS, Experiment, class_path
from lit_blip2.network import annotated_network, build_net, module_arguments, network_class
from lit_blip2.runs import find_checkpoint

Module = TypeVar("Module")


def made_from(
    kind: type[Module], checkpoint: str | Path, allow: Sequence[str], given: Mapping[str, Any]
) -> tuple[Module, dict[str, Any]]:
    """A module of class `kind`, with its frozen weights loaded, and the contents of the checkpoint.

    given: arguments that replace the run's. With a network among them the checkpoint needs no configuration. Raises as
    `load_from_checkpoint`.
    """
    file = find_checkpoint(checkpoint)
    contents = read_checkpoint(file)
    experiment = carried(contents, file, [*allow, f"{kind.__module__}.{kind.__qualname__}"])
    arguments = dict(given)
    if "net" not in given:
        check_settings(experiment)
        _check_class(experiment, kind)
        arguments["net"] = build_net(experiment)
    if experiment.model:
        # Training goes on from these weights, not from the files that the run itself started from.
        arguments = module_arguments(experiment, kind, {*given, *STARTS}) | arguments
    arguments["net"].load()
    return kind(**arguments), contents


def _check_class(experiment: Experiment, kind: type) -> None:
    """Raises ValueError if the run's network is of another class than this module's."""
    if network_class(experiment) is not annotated_network(kind):
        own = class_path(experiment.settings["model"])
        raise ValueError(f"{experiment.source} is a run of {own}, not of {kind.__name__}: load it by that class")
