"""What must be known of a published model before its weights are there: sizes, and where to get it.

`published.json` holds, for each encoder and language model that an experiment names, its width and its number of
parameters; of encoders how they want their images, of language models the configuration. `python -m
lit_blip2.model.publish` counts them again, and a test compares.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from lit_blip2.offline import offline

FILE = Path(__file__).with_name("published.json")
ADDED_WORDS = 1024  # rows that fine-tuning, or rounding up, may have put behind a published vocabulary


@cache
def published() -> dict[str, dict]:
    """Name (timm's or the hub's) -> {kind, width, parameters, mean, std, interpolation, size, config, download}."""
    return json.loads(FILE.read_text())


def vision_card(encoder: nn.Module) -> dict:
    """Width and parameters of a timm network as it is used, on meta or not, and how it wants its images."""
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
    """Width of the input embeddings and parameters of a Hugging Face language model, on meta or not."""
    width = model.get_input_embeddings().embedding_dim
    return {"width": width, "parameters": sum(p.numel() for p in model.parameters())}


def check_is(name: str, config: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError where a language model's configuration is of another family than the published model of this
    name, or has other sizes than its card. Any other name is a folder's own affair. file: it, for the message."""
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
    """Whether a field of a card is a size that every model of the name has; how far its positions go is not."""
    return type(value) is int and not field.endswith("_id") and field != "max_position_embeddings"
