"""What must be known of a published model before its weights are there: sizes, and where to get it.

`published.json` holds, for each encoder and language model that an experiment names, its width and its number of
parameters; of encoders how they want their images, of language models the configuration. `python -m
lit_blip2.model.publish` counts them again, and a test compares.
"""

import json
from functools import cache
from pathlib import Path

from torch import nn

FILE = Path(__file__).with_name("published.json")


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
