"""Of an experiment's YAML what the data commands need: its data, and its frozen image encoder."""

from argparse import ArgumentError
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from lit_blip2.data.module import PairData
from lit_blip2.model.vision import VisionEncoder


def read_data(config: Path) -> PairData:
    """The data module of an experiment. Raises ValueError for what it refuses."""
    content = _content(config)
    if "data" not in content:
        raise ValueError(f"{config} has no `data`: give an experiment, such as experiments/mini_stage1.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PairData, "data")
    return _instantiate(parser, {"data": content["data"]}, config).data


def read_vision(config: Path) -> VisionEncoder:
    """The image encoder of an experiment, without weights. Raises ValueError for what it refuses."""
    net = _content(config).get("model", {}).get("init_args", {}).get("net", {})
    vision = net.get("init_args", net).get("vision")
    if vision is None:
        raise ValueError(f"{config} has no `model.init_args.net.vision`: name an encoder there, or with --vision")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VisionEncoder, "vision")
    return _instantiate(parser, {"vision": vision.get("init_args", vision)}, config).vision


def _content(config: Path) -> dict:
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _instantiate(parser: ArgumentParser, content: dict, config: Path):
    try:
        return parser.instantiate_classes(parser.parse_object(content))
    except ArgumentError as error:
        raise ValueError(f"{config}: {error}") from error
