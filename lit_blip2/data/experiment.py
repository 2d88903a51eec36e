"""Of an experiment's YAML what the data commands need."""

from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from lit_blip2.data.module import PairData


def read_data(configs: Sequence[Path]) -> PairData:
    """The data module of an experiment, on images; later files change what earlier ones say.

    Raises ValueError for what it refuses, and where there is no `data`.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PairData, "data")
    given = None
    for config in configs:
        if "data" in (found := content(config)):
            with refusing(config):
                given = parser.parse_object({"data": found["data"]}, cfg_base=given)
    if given is None:
        raise ValueError(f"no `data` in {names(configs)}: give an experiment, such as experiments/mini_stage1.yaml")
    with refusing(configs[-1]):
        data = parser.instantiate_classes(given).data
    data.features = None
    return data


def content(config: Path) -> dict:
    """A YAML file; empty if it is no mapping. Raises ValueError."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is not YAML: {error}") from error
    return content if isinstance(content, dict) else {}


@contextmanager
def refusing(config: Path) -> Iterator[None]:
    """The parser's complaint as a ValueError that names the file."""
    try:
        yield
    except ArgumentError as error:
        raise ValueError(f"{config}: {error}") from error


def names(configs: Sequence[Path]) -> str:
    """For a message."""
    return " or ".join(map(str, configs))
