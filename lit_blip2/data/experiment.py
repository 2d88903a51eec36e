"""What the data commands build of an experiment: its data module, and its image encoder for cached features."""

from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_blip2.config import Experiment, read
from lit_blip2.data.module import PairData


def read_data(configs: Sequence[Path]) -> PairData:
    """The data module of an experiment, on images. Raises ValueError where there is none, or none that fits."""
    data = built(configs, "data", PairData, lambda experiment: experiment.settings.get("data"))
    if data is None:
        raise ValueError(f"no `data` in {names(configs)}: give an experiment, such as experiments/mini_stage1.yaml")
    data.features = None
    return data


def built(configs: Sequence[Path], name: str, kind: type, part: Callable[[Experiment], Any]) -> Any:
    """An object of a class as the files of an experiment describe it, each changing what those before it say, as in
    `fit`; None where none does. name: for errors. Raises ValueError that names the file."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    given = None
    for config in configs:
        if (settings := part(read(config))) is not None:
            with refusing(config):
                given = parser.parse_object({name: settings}, cfg_base=given)
    if given is None:
        return None
    with refusing(configs[-1]):
        return parser.instantiate(given)[name]


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
