"""How an encoder wants its images: the filter that resizes them, and the mean and standard deviation that pixels are
normalised with.

Images travel as 8-bit pixels, a quarter of the bytes, and are normalised where they are encoded.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Interpolation = Literal["bicubic", "bilinear"]
# What everything was made with before it was noted: checkpoints and cached features that say nothing.
UNNOTED = {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "interpolation": "bicubic"}


class Looks(NamedTuple):
    """mean, std: of the three colours, of values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    @classmethod
    def of(cls, card: Mapping[str, Any], name: str) -> "Looks":
        """From timm's pretrained_cfg, or what is like it. Raises ValueError, with the name, for what cannot be."""
        looks = cls(tuple(card["mean"]), tuple(card["std"]), card["interpolation"])
        wrong = [f"mean={looks.mean}"] if len(looks.mean) != 3 else []
        wrong += [f"std={looks.std}"] if len(looks.std) != 3 or min(looks.std) <= 0 else []
        if looks.interpolation not in get_args(Interpolation):
            wrong.append(f"interpolation={looks.interpolation!r}")
        if wrong:
            raise ValueError(
                f"{name}: {', '.join(wrong)}: mean and std are three numbers, one for each colour, std above 0; "
                f"interpolation is {' or '.join(get_args(Interpolation))}"
            )
        return looks


def card_beside(weights: Path, name: str) -> dict[str, Any]:
    """What the config.json beside a file of weights says of images, as timm's folders on the hub have one; else empty.

    name: of the encoder, as timm has it; the card of another architecture is left out, with a warning.
    Raises ValueError for a file that is not JSON.
    """
    file = weights.with_name("config.json")
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict) or not content.keys() & {"architecture", "pretrained_cfg"}:
        return {}
    card = content.get("pretrained_cfg", content)
    own, wanted = (content.get("architecture") or card.get("architecture")), name.split(".")[0]
    if own is not None and own.split(".")[0] != wanted:
        warnings.warn(
            f"{file} is of {own}, not of image encoder {name}: its mean, std and interpolation are left out; keep each "
            "encoder's files in a folder of their own",
            stacklevel=2,
        )
        return {}
    return {key: card[key] for key in UNNOTED if key in card}


def normalise(pixels_B3HW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels uint8 [B, 3, H, W] to float32: (value / 255 - mean) / std, as one product and one sum."""
    images_B3HW = pixels_B3HW.float()
    for channel, (scale, shift) in enumerate(factors(mean, std)):
        images_B3HW[:, channel].mul_(scale).add_(shift)
    return images_B3HW


def factors(mean: Sequence[float], std: Sequence[float]) -> list[tuple[float, float]]:
    """(scale, shift) of each colour, as float32 holds them."""
    mean_3, std_3 = (torch.tensor(each, dtype=torch.float64, device="cpu") for each in (mean, std))
    scale_3 = (1 / 255 / std_3).float()
    shift_3 = (-mean_3 * 255 * scale_3).float()
    return list(zip(scale_3.tolist(), shift_3.tolist()))
