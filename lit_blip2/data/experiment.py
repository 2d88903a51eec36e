"""Of an experiment's YAML what the data commands need: its data, and its frozen image encoder."""

from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from lit_blip2.data.module import PairData
from lit_blip2.model.vision import VisionEncoder


def read_data(configs: Sequence[Path]) -> PairData:
    """The data module of an experiment, on images; later files change what earlier ones say.

    Raises ValueError for what it refuses, and where there is no `data`.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PairData, "data")
    given = None
    for config in configs:
        if "data" in (content := _content(config)):
            with _refusing(config):
                given = parser.parse_object({"data": content["data"]}, cfg_base=given)
    if given is None:
        raise ValueError(f"no `data` in {_names(configs)}: give an experiment, such as experiments/mini_stage1.yaml")
    with _refusing(configs[-1]):
        data = parser.instantiate_classes(given).data
    data.features = None
    return data


def read_vision(configs: Sequence[Path]) -> VisionEncoder:
    """The image encoder of an experiment, without weights: of the last file that names one. Raises ValueError."""
    for config in reversed(configs):
        vision = _content(config)
        for key in ("model", "net", "vision"):
            vision = (vision.get("init_args") or vision).get(key) or {}
        if vision:
            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(VisionEncoder, "vision")
            given = {"vision": vision.get("init_args", vision)}
            with _refusing(config):
                return parser.instantiate_classes(parser.parse_object(given)).vision
    raise ValueError(f"no `model.init_args.net.vision` in {_names(configs)}: name an encoder there, or with --vision")


def _content(config: Path) -> dict:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is not YAML: {error}") from error
    return content if isinstance(content, dict) else {}


@contextmanager
def _refusing(config: Path) -> Iterator[None]:
    """The parser's complaint as a ValueError that names the file."""
    try:
        yield
    except ArgumentError as error:
        raise ValueError(f"{config}: {error}") from error


def _names(configs: Sequence[Path]) -> str:
    return " or ".join(map(str, configs))
