"""What training starts from: weights of another run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lit_blip2.checkpoint import check_fits, is_text_half, qformer_state, read_checkpoint, trainable_state
from lit_blip2.config import from_text
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.vision import VisionEncoder, used_blocks
from lit_blip2.objectives.stage2 import Stage2

NO_OBJECTIVES = ("net.vision.", "net.qformer.", "net.bridge.", "net.language.", "net.stage1.", "net.stage2.")
FROM_FILES = ("net.vision.", "net.language.")


def read_start(source: str, vision: VisionEncoder) -> dict[str, Any]:
    """A checkpoint or run folder to start from. Raises ValueError where its run looked through another encoder, or
    through fewer or more blocks of it, or trained an encoder that is frozen here."""
    checkpoint = read_checkpoint(source)
    if vision.frozen and any(key.startswith("net.vision.") for key in checkpoint["state_dict"]):
        raise ValueError(
            f"init_from={source!r} trained its image encoder too, and this run would go on with the original one: "
            "export the encoder and point model.net.vision.weights to it"
        )
    ours = {"name": vision.name, "model_args": vision.own_args, "drop_last_blocks": vision.drop_last_blocks}
    told = from_text(checkpoint.get("config"), source).vision
    theirs = {key: {} if told[key] is None else told[key] for key in ours if key in told}
    same_blocks = not theirs or theirs == ours
    if not same_blocks and theirs["name"] == vision.name and _sizes(theirs) == _sizes(ours):
        same_blocks = used_blocks(**theirs) == used_blocks(**ours)
    if not same_blocks:
        raise ValueError(
            f"init_from={source!r} was trained with vision {theirs}, this run has {ours}: its Q-Former knows no other "
            "features"
        )
    if (file := told.get("weights")) not in (None, vision.weights):
        rank_zero_warn(
            f"init_from={source!r} looked through {file}, this run through {vision.weights}: its Q-Former knows the "
            "features of those weights; set model.net.vision.weights to them unless both are the same"
        )
    return checkpoint


def _sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of an encoder's arguments those that change what a block is."""
    return {key: value for key, value in settings.get("model_args", {}).items() if key not in ("depth", "img_size")}


def take_stage(module: nn.Module, checkpoint: Mapping[str, Any], source: str) -> None:
    """Go on from a run of the same stage: all that trains here, as it was there.

    Heads of objectives that are off here are left, and told; an image encoder or a language model that was frozen there
    starts from its file. Raises ValueError for anything else that does not fit.
    """
    state, wanted = dict(checkpoint["state_dict"]), trainable_state(module)
    if spare := sorted(key for key in state if not key.startswith(NO_OBJECTIVES) and key not in wanted):
        rank_zero_info(f"init_from={source!r}: left {', '.join(spare)}, whose objectives are off")
    state = {key: value for key, value in state.items() if key not in spare}
    wanted = {key: value for key, value in wanted.items() if key in state or not key.startswith(FROM_FILES)}
    check_fits(state, wanted, f"init_from={source!r}")
    module.load_state_dict(state, strict=False)  # what is missing is frozen: check_fits saw to the rest


def add_text_half(checkpoint: dict[str, Any], text_from: str | None, net: Stage2) -> None:
    """Put stage 1's text half into a checkpoint of stage 2 whose Q-Former has none. Raises ValueError where one is
    wanted and `text_from` is None, or where one is given and there is one already."""
    prefix = "net.bridge.qformer."
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
    words = qformer_state(read_start(text_from, net.vision), text_from, net.bridge.qformer)
    checkpoint["state_dict"] = state | {prefix + key: value for key, value in words.items() if is_text_half(key)}


def take_qformer(qformer: QFormer, checkpoint: Mapping[str, Any], source: str) -> None:
    """Start stage 2's Q-Former from stage 1's. Raises ValueError for what does not fit."""
    state = qformer_state(checkpoint, source, qformer)
    check_fits(state, qformer.state_dict(), f"init_from={source!r}")
    qformer.load_state_dict(state)
