"""How an encoder wants its images: the filter that resizes them, and the mean and standard deviation that pixels are
normalised with.

Images are passed on as 8-bit pixels, a quarter of the bytes, and are normalised where they are encoded.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lit_blip2.contents import DataError, read_object

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Interpolation = Literal["bicubic", "bilinear"]
RESAMPLE = {3: "bicubic", 2: "bilinear"}  # PIL's numbers
# What older checkpoints and cached features, which do not note it, were made with.
UNNOTED = {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "interpolation": "bicubic"}
TIMMS = {"architecture", "pretrained_cfg"}  # keys of a config.json that is read
# Files of other projects that may lie beside weights -> the key of their image settings; empty: the whole file.
UNREAD = {
    "open_clip_config.json": "preprocess_cfg",
    "preprocessor_config.json": "",
    "processor_config.json": "image_processor",
    "config.json": "",
}


class Looks(NamedTuple):
    """Preprocessing of images. mean, std: of each of the three colours, for values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    @classmethod
    def of(cls, card: Mapping[str, Any], name: str) -> "Looks":
        """Read timm's pretrained_cfg, or a dict like it. Raises DataError, with the name, for invalid values."""
        looks = cls(*(tuple(each) if isinstance(each := card[key], list | tuple) else each for key in cls._fields))
        wrong = [
            f"{key}={value}"
            for key, value, least in (("mean", looks.mean, 0), ("std", looks.std, sys.float_info.min))
            if not _is_of_colours(value, least)
        ]
        if looks.interpolation not in get_args(Interpolation):
            wrong.append(f"interpolation={looks.interpolation!r}")
        if wrong:
            raise DataError(
                f"{name}: {', '.join(wrong)}: mean and std are three numbers, of each colour, from 0 to 1, std above 0;"
                f" interpolation is {' or '.join(get_args(Interpolation))}"
            )
        return looks


def _is_of_colours(values: Any, least: float) -> bool:
    """Whether it is three numbers from `least` to 1."""
    three = isinstance(values, tuple) and len(values) == 3
    return three and all(isinstance(each, int | float) and least <= each <= 1 for each in values)


def card_beside(weights: Path, name: str) -> dict[str, Any]:
    """What the config.json beside a file of weights says about images and the network, as in timm's folders on the hub:
    mean, std, interpolation, size and model_args, as far as it has them; and random, if exported weights are random.

    name: timm's name of the encoder. The config.json of another architecture is left out, with a warning.
    Raises DataError, with the file's name, for a file that is not JSON, and for invalid values.
    """
    file = weights.with_name("config.json")
    content = _read(file)
    if not content.keys() & TIMMS:
        return {}
    card = content.get("pretrained_cfg") or content
    if not isinstance(card, dict):
        raise DataError(f"{file}: pretrained_cfg is {card!r}, where the settings of images are wanted")
    for named in (content.get("architecture"), card.get("architecture")):
        if not isinstance(named, str | None):
            raise DataError(f"{file}: architecture is {named!r}, where a name is wanted")
    own, wanted = (content.get("architecture") or card.get("architecture")), name.split(".")[0]
    if own is not None and own.split(".")[0] != wanted:
        warnings.warn(
            f"{file} is of {own}, not of image encoder {name}: its mean, std and interpolation are left out, and so is "
            f"what it computes otherwise, such as its activation. Give the name of the network that {weights.name} is "
            "of, and keep each encoder's files in a folder of their own",
            stacklevel=2,
        )
        return {}
    told = {key: card[key] for key in UNNOTED if card.get(key) is not None}
    Looks.of(UNNOTED | told, str(file))
    told |= {"size": _side(card["input_size"], file)} if card.get("input_size") is not None else {}
    told |= {"random": True} if content.get("random") is True else {}
    return told | ({"model_args": content["model_args"]} if isinstance(content.get("model_args"), dict) else {})


def _side(input_size: Any, file: Path) -> int:
    """Pixels along a side, from timm's [colours, height, width]."""
    if isinstance(input_size, list) and len(input_size) == 3 and all(type(each) is int for each in input_size):
        return input_size[-1]
    raise DataError(f"{file}: input_size is {input_size!r}, where [3, height, width] in pixels is wanted")


def tell_unread(weights: Path, looks: Looks, name: str) -> None:
    """Warn if another project's file beside the weights has other image settings than `looks`."""
    for file, inside in ((weights.with_name(each), inside) for each, inside in UNREAD.items()):
        content = _read(file)
        card = content.get(inside) if inside else content
        card = card if isinstance(card, dict) and not content.keys() & TIMMS else {}
        theirs = {key: card.get(key, card.get(f"image_{key}")) for key in ("mean", "std")}
        theirs["interpolation"] = card.get("interpolation", RESAMPLE.get(card.get("resample")))
        ours = looks._asdict()
        if other := {key: each for key, each in theirs.items() if each is not None and not _alike(each, ours[key])}:
            said = ", ".join(f"{key} {each}" for key, each in other.items())
            used = ", ".join(f"{key} {ours[key]}" for key in other)
            warnings.warn(
                f"{file} says {said}, and is not read: image encoder {name} has {used}; set model.net.vision."
                f"{', '.join(other)} to what these weights were trained with",
                stacklevel=2,
            )


def _alike(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, str):
        return theirs == ours
    theirs = theirs if isinstance(theirs, list) else [theirs] * len(ours)
    alike = (isinstance(one, int | float) and abs(one - two) < 1e-3 for one, two in zip(theirs, ours))
    return len(theirs) == len(ours) and all(alike)


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file. Raises DataError for other contents."""
    return read_object(file) if file.is_file() else {}


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
