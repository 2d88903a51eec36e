"""`data features`: the frozen encoder's output for all images of an experiment, on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_blip2.data.experiment import built, names, read_data
from lit_blip2.data.features.writer import cache_features
from lit_blip2.model.vision import VisionEncoder


def features(config: list[str], out: Path, vision: VisionEncoder | None = None, **how: Any) -> None:
    """Cache the frozen encoder's output for all images of an experiment; `--data.features=OUT` then reads it.

    The size is told first, and refused where the disk is too small. What is there and fits is left: an interrupted run
    goes on. An image to train on that cannot be read is noted, and replaced in training as it would be without this.

    Args:
        config: the experiment, a YAML file with `data` and `model`; given again, files that change it. Settings
            behind it change it too, such as --data.image_size=64.
        out: folder to write, a folder in it for each of train (train_NAME of a mixture's sources), val and test.
        vision: another encoder than the experiment's, such as '{name: ..., weights: ..., model_args: {...}}'.
    """
    cache_features(read_data(config), vision or read_vision(config), out, **how)


def read_vision(configs: Sequence[str]) -> VisionEncoder:
    """The image encoder of an experiment, without weights. Raises ValueError where there is none, or none that fits."""
    vision = built(configs, "model.net.vision", VisionEncoder)
    if vision is None:
        raise ValueError(
            f"no `model.init_args.net.vision` in {names(configs)}: name an encoder there, or with --vision"
        )
    return vision
