"""Starts training from the weights of another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lit_blip2.checkpoint import (
    check_fits,
    is_text_half,
    qformer_state,
    read_checkpoint,
    trainable_state,
)
from lit_blip2.config import from_text
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.network import kept_settings
from lit_blip2.runs import find_checkpoint
from lit_blip2.settings import WEIGHTS

NO_OBJECTIVES = ("net.vision.", "net.qformer.", "net.bridge.", "net.language.", "net.stage1.", "net.stage2.")
FROM_FILES = ("net.vision.", "net.language.")


def starting_checkpoint(source: str) -> Path:
    """The checkpoint that `init_from` stands for, a file or a run's folder. Raises FileNotFoundError without one."""
    try:
        return find_checkpoint(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.init_from: {error}, or null to start without one") from error


def read_start(source: str, module: LitBLIP2) -> dict[str, Any]:
    """Read the checkpoint, or a run folder's newest one, that training starts from. Raises ValueError if its settings
    differ from this run's, or if it trained an image encoder to other weights than those that are frozen here."""
    file = starting_checkpoint(source)
    if file != Path(source):
        rank_zero_info(f"init_from={source!r}: {file} is its newest whole checkpoint")
    checkpoint, vision = read_checkpoint(file), module.net.vision
    brought = list(checkpoint["state_dict"])
    if vision.frozen:
        checkpoint["state_dict"] = without_encoder(checkpoint["state_dict"], vision, source)
    theirs = kept_settings(checkpoint, file, module.allowed)
    if hasattr(module.net, "bridge") and not any(key.startswith("net.bridge.") for key in checkpoint["state_dict"]):
        theirs = in_bridge(theirs)
    module.check_settings(theirs, f"init_from={source!r}", brought)
    known, path = f"vision.{WEIGHTS}", from_text(checkpoint.get("config"), source).vision.get("weights")
    if known not in theirs.keys() & module.settings().keys() and path not in (None, vision.weights):
        rank_zero_warn(
            f"init_from={source!r} was trained with image encoder weights {path}, this run uses {vision.weights}: its "
            "Q-Former knows the features of those weights; set model.net.vision.weights to them unless both are one"
        )
    return checkpoint


def without_encoder(state: Mapping[str, Tensor], vision: VisionEncoder, source: str) -> dict[str, Tensor]:
    """A checkpoint's weights without those of its image encoder, which this run holds frozen. Raises ValueError if the
    two encoders' weights differ."""
    prefix = "net.vision.encoder."
    trained = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not trained:
        return dict(state)
    vision.load()  # not loaded yet if cached features are read
    own = vision.encoder.state_dict()
    if not all(name in own and torch.equal(value.to(own[name].dtype), own[name]) for name, value in trained.items()):
        raise ValueError(
            f"init_from={source!r} trained its image encoder too, and this run would go on with another one: write it "
            f"with `python -m lit_blip2 export --checkpoint {source} --to timm --out encoder` and set "
            "model.net.vision.weights to encoder/model.safetensors"
        )
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


def in_bridge(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stage 1's settings under the names that they have in stage 2: its Q-Former is the bridge's."""
    moved = {name.removeprefix("stage1."): value for name, value in settings.items()}
    own = ("qformer.", "tokenizer.")
    return {f"bridge.{name}" if name.startswith(own) else name: value for name, value in moved.items()}


def take_stage(module: nn.Module, checkpoint: Mapping[str, Any], source: str) -> None:
    """Load all weights that this run trains from a checkpoint of the same stage.

    Heads of objectives that are off here are skipped and logged. An image encoder or language model that was frozen in
    that run starts from its file. Raises ValueError for anything else that does not fit.
    """
    state, wanted = dict(checkpoint["state_dict"]), trainable_state(module)
    if spare := sorted(key for key in state if not key.startswith(NO_OBJECTIVES) and key not in wanted):
        rank_zero_info(f"init_from={source!r}: left {', '.join(spare)}, whose objectives are off")
    state = {key: value for key, value in state.items() if key not in spare}
    wanted = {key: value for key, value in wanted.items() if key in state or not key.startswith(FROM_FILES)}
    check_fits(state, wanted, f"init_from={source!r}")
    module.load_state_dict(state, strict=False)  # missing keys come from files; check_fits saw the rest


def add_text_half(checkpoint: dict[str, Any], text_from: str | None, module: LitBLIP2) -> None:
    """Add stage 1's text half to a checkpoint of stage 2 whose Q-Former has none, in place. Raises ValueError if it is
    needed and `text_from` is None, or if `text_from` is given and the checkpoint has a text half."""
    net, prefix = module.net, "net.bridge.qformer."
    state = checkpoint["state_dict"]
    has = any(is_text_half(key.removeprefix(prefix)) for key in state if key.startswith(prefix))
    if net.reads_prompts and not has and text_from is None:
        raise ValueError(
            "init_from is a stage 2 whose Q-Former has no text half, and this bridge reads prompts: name the run of "
            "stage 1 it came from, --model.text_from=RUN"
        )
    if text_from is None:
        return
    if has:
        raise ValueError(f"text_from={text_from!r}, and init_from has a text half of its own: set text_from to null")
    words = qformer_state(read_start(text_from, module), text_from, net.bridge.qformer)
    checkpoint["state_dict"] = state | {prefix + key: value for key, value in words.items() if is_text_half(key)}


def take_qformer(qformer: QFormer, checkpoint: Mapping[str, Any], source: str) -> None:
    """Load stage 1's Q-Former into stage 2's. Raises ValueError for weights that do not fit."""
    state = qformer_state(checkpoint, source, qformer)
    check_fits(state, qformer.state_dict(), f"init_from={source!r}")
    qformer.load_state_dict(state)
