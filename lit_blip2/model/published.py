"""What must be known of a published model before its weights are there: sizes, and where to get it.

`published.json` holds, for each encoder and language model that an experiment names, its width, its number of
parameters and (language models) its configuration. `python -m lit_blip2.model.publish` counts them again, and a test
compares.
"""

import json
from functools import cache
from pathlib import Path

from torch import nn

FILE = Path(__file__).with_name("published.json")


@cache
def published() -> dict[str, dict]:
    """Name (timm's or the hub's) -> {kind, width, parameters, config, download}."""
    return json.loads(FILE.read_text())


def vision_card(encoder: nn.Module) -> dict:
    """Width and parameters of a timm ViT as it is used, on meta or not."""
    return {"width": encoder.embed_dim, "parameters": sum(p.numel() for p in encoder.parameters())}


def language_card(model: nn.Module) -> dict:
    """Width of the input embeddings and parameters of a Hugging Face language model, on meta or not."""
    width = model.get_input_embeddings().embedding_dim
    return {"width": width, "parameters": sum(p.numel() for p in model.parameters())}
