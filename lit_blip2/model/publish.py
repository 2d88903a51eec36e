"""Regenerates published.json by building each model on the meta device: `python -m lit_blip2.model.publish`."""

import json

from lit_blip2.model import pretrained, timm_network
from lit_blip2.model.published import FILE, language_card, published, vision_card


def refresh() -> dict[str, dict]:
    """Build every published model from its name or configuration, and return the new cards."""
    cards = {}
    for name, card in published().items():
        if card["kind"] == "vision":
            counted = vision_card(timm_network.build(name, {}, 1, device="meta"))
        else:
            counted = language_card(pretrained.build(card["config"]))
        cards[name] = card | counted
    return cards


if __name__ == "__main__":
    FILE.write_text(json.dumps(refresh(), indent=2) + "\n")
