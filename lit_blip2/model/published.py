"""What is known of published models without their weights: sizes, and where to get them.

`published.json` holds the width and number of parameters of each encoder and language model that an experiment names.
It also holds how an encoder's images are prepared, and a language model's configuration. `python -m
lit_blip2.model.publish` regenerates it, and a test compares.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from lit_blip2.offline import offline

FILE = Path(__file__).with_name("published.json")
ADDED_WORDS = 1024  # most rows that fine-tuning, or rounding up, may have added to a published vocabulary


@cache
def published() -> dict[str, dict]:
    """Name (timm's or the hub's) -> {kind, width, parameters, mean, std, interpolation, size, config, download}."""
    return json.loads(FILE.read_text())


def vision_card(encoder: nn.Module) -> dict:
    """Width, number of parameters and image preparation of a timm network, on the meta device or not."""
    timms = encoder.pretrained_cfg
    return {
        "width": encoder.num_features,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "mean": list(timms["mean"]),
        "std": list(timms["std"]),
        "interpolation": timms["interpolation"],
        "size": timms["input_size"][-1],
    }


def language_card(model: nn.Module) -> dict:
    """Width of the input embeddings and number of parameters of a Hugging Face language model, on the meta device or
    not."""
    width = model.get_input_embeddings().embedding_dim
    return {"width": width, "parameters": sum(p.numel() for p in model.parameters())}


def check_is(name: str, config: Mapping[str, Any], file: Path) -> None:
    """Raises ValueError if a language model's configuration has another family or other sizes than the published model
    of this name. A name that is not published is not checked. file: the configuration's, for the message."""
    if (card := published().get(name)) is None:
        return
    from transformers import AutoConfig

    own, family = card["config"], card["config"]["model_type"]
    differing = [f"model_type {config.get('model_type')}, there {family}"]
    if config.get("model_type") == family:
        with offline():
            filled = AutoConfig.for_model(**config)  # a file leaves out what is its class' default
        sizes = {field: (getattr(filled, field), value) for field, value in own.items() if _is_size(field, value)}
        if sizes["vocab_size"][0] in range(own["vocab_size"], own["vocab_size"] + ADDED_WORDS + 1):
            del sizes["vocab_size"]
        differing = [f"{field} {here}, there {there}" for field, (here, there) in sizes.items() if here != there]
    if differing:
        raise ValueError(
            f"{file} is not of language model {name}: {'; '.join(differing)}. Point --model.net.language.weights to a "
            "folder of that model, or give this folder as --model.net.language.name, with weights=null"
        )


def _is_size(field: str, value: Any) -> bool:
    """Whether a field of a card is a size that every model of this name has; the number of positions may differ."""
    return type(value) is int and not field.endswith("_id") and field != "max_position_embeddings"
