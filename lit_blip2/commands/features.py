"""`data features`: write the frozen image encoder's output for all images of an experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_blip2.data.experiment import built, names, read_data
from lit_blip2.data.features.writer import cache_features
from lit_blip2.model.vision import VisionEncoder


def features(config: list[str], out: Path, vision: VisionEncoder | None = None, **how: Any) -> None:
    """Write the frozen image encoder's output for all images of an experiment. `--data.features=OUT` then trains on it.

    It first prints the size on disk, and stops with an error if the disk is too small. After an interruption the same
    command continues. An unreadable training image is noted, and training replaces it as it does without cached
    features.

    Args:
        config: the experiment, a YAML file with `data` and `model`. May be given again: later files change settings.
            Settings behind it change them too, such as --data.image_size=64.
        out: folder to write. It gets a folder for each of train (train_NAME for a source of a mixture), val and test.
        vision: an image encoder to use in place of the experiment's, such as '{name: ..., weights: ..., model_args:
            {...}}'; null: the experiment's.
    """
    cache_features(read_data(config), vision or read_vision(config), out, **how)


def read_vision(configs: Sequence[str]) -> VisionEncoder:
    """The image encoder of an experiment, without weights. Raises ValueError if the experiment names none."""
    vision = built(configs, "model.net.vision", VisionEncoder)
    if vision is None:
        raise ValueError(
            f"no `model.init_args.net.vision` in {names(configs)}: name an encoder there, or with --vision"
        )
    return vision
