"""What must be known of a published model before its weights are there: sizes, and where to get it.

`published.json` holds, for each encoder and language model that an experiment names, its width, its number of
parameters and (language models) its configuration. Made, with the configurations at hand, by

    python -m lit_blip2.model.published

which builds each model on the meta device with timm and transformers; a test builds them again and compares.
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


def refresh() -> dict[str, dict]:
    """Count every published model again, from its name or configuration."""
    from lit_blip2.model import pretrained, vision

    cards = {}
    for name, card in published().items():
        if card["kind"] == "vision":
            counted = vision_card(vision.build(name, {}, 1, device="meta"))
        else:
            counted = language_card(pretrained.build(card["config"]))
        cards[name] = card | counted
    return cards


if __name__ == "__main__":
    FILE.write_text(json.dumps(refresh(), indent=2) + "\n")
