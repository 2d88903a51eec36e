"""Repeats the batch of a non-finite step, with the weights of its run's newest checkpoint.

Legend: P trainable numbers.
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_blip2 import lit
from lit_blip2.checkpoint import carried, read_checkpoint
from lit_blip2.checkpoint_net import load_net
from lit_blip2.config import Experiment, class_path
from lit_blip2.contents import DataError, read_text
from lit_blip2.keyed import seed_dropout
from lit_blip2.links import check_inside
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.network import OWN, build_net
from lit_blip2.objectives.gradients import gradients
from lit_blip2.objectives.origin import Origin, watched
from lit_blip2.runs import CONFIG, newest_checkpoint, run_of
from lit_blip2.terminal import one_line

PRECISIONS = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class Replayed(NamedTuple):
    """The result for one objective: its loss, the norm of its weighted gradient, and where NaN or infinity first
    arises."""

    loss: float
    norm: float
    origin: Origin


def module_of(kept: Path, allow: Sequence[str] = ()) -> tuple[LitBLIP2, Experiment, str]:
    """The module of the run that saved a batch, its experiment, and a description of its weights.

    kept: the file of the batch. Without a checkpoint of the run the weights are drawn anew. Raises FileNotFoundError
    for a run without config.yaml, DataError for a link that leads out of the run, ValueError for a module that is not
    of this package.
    """
    run = run_of(kept.absolute())
    try:
        file = newest_checkpoint(run)
        contents = read_checkpoint(file)
        said = f"{file}, which stands at step {contents['global_step']}"
    except FileNotFoundError:
        file, said = run / CONFIG, "drawn anew, as the run has no checkpoint: not those that the step had"
        check_inside(run, [file])
        contents = {"config": read_text(file)}
    experiment = carried(contents, file, allow)
    if (name := class_path(experiment.settings.get("model"))) not in OWN:
        raise ValueError(f"{file} is a run of {name}: replay knows {', '.join(OWN)}")
    cached = experiment.data.get("features") is not None
    if "state_dict" in contents:
        net = load_net(contents, experiment, file, vision=not cached)
    else:
        torch.manual_seed(experiment.settings.get("seed_everything") or 0)
        net = build_net(experiment)
        net.load(vision=not cached)
    return getattr(lit, name.rpartition(".")[2])(net, AdamWCosine()), experiment, said


def replay(
    module: LitBLIP2, experiment: Experiment, kept: dict[str, Any], batch: dict[str, Any]
) -> dict[str, Replayed]:
    """Compute each objective of one micro-batch of a saved step, on the module's device, in the run's mixed precision.

    Raises DataError for a batch that the run's network cannot take.
    """
    try:
        return _replay(module, experiment, kept, batch)
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"micro-batch {batch['micro_batch'][0] + 1} of the kept batch does not fit its run's network "
            f"({type(error).__name__} {one_line(error, 200)}): it is of another run, or damaged"
        ) from error


def _replay(
    module: LitBLIP2, experiment: Experiment, kept: dict[str, Any], batch: dict[str, Any]
) -> dict[str, Replayed]:
    net, device, own = module.net.train(), module.device, [p for p in module.parameters() if p.requires_grad]
    dtype = PRECISIONS.get(str(experiment.trainer.get("precision")))
    found = {}
    for name, objective in net.objectives.items():
        seed_dropout(batch["seed"], batch["step"], batch["micro_batch"][0], kept["rank"])
        with watched(net) as origin, torch.autocast(device.type, dtype) if dtype else nullcontext():
            losses = module.losses(moved(batch, device))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of modules whose output is unused
                (grad_P,) = gradients({name: objective.weight * losses[name]}, own)
        found[name] = Replayed(losses[name].item(), grad_P.norm().item(), origin)
    return found


def moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch on a device."""
    return {
        name: each.to(device) if isinstance(each, Tensor) or hasattr(each, "to") else each
        for name, each in batch.items()
    }
