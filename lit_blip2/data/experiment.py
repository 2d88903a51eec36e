"""What the data commands build of an experiment: its data module, and its image encoder for cached features."""

from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_blip2.complaints import reason
from lit_blip2.config import Experiment, arguments_of, check_encoder, read
from lit_blip2.data.module import PairData
from lit_blip2.nulls import check_nulls

SETTINGS = ("--data.", "--model.net.", "--model.init_args.net.")  # what of an experiment these commands use


def read_data(configs: Sequence[str]) -> PairData:
    """The data module of an experiment, on images. Raises ValueError where there is none, or none that fits."""
    data = built(configs, "data", PairData)
    if data is None:
        raise ValueError(f"no `data` in {names(configs)}: give an experiment, such as experiments/mini_stage1.yaml")
    data.features = None
    return data


def experiments_in(configs: Sequence[str]) -> list[Experiment]:
    """Those of `configs` that are files."""
    return [read(Path(each)) for each in configs if not is_setting(each)]


def is_setting(config: str) -> bool:
    """Whether it is one such as --data.batch_size=4, and no file."""
    return str(config).startswith(SETTINGS)


def built(configs: Sequence[str], place: str, kind: type) -> Any:
    """An object of a class as an experiment describes it at a place such as data or model.net.vision; None where it
    does not. configs: files, each changing what those before it say, and settings behind them, as in `fit`. Raises
    ValueError that names the file or the setting."""
    *above, name = place.split(".")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    given = None
    for config in configs:
        with refusing(config):
            if not is_setting(config):
                settings = arguments_of(read(Path(config)).settings, *above).get(name)
                given = given if settings is None else parser.parse_object({name: settings}, cfg_base=given)
                continue
            setting = config.replace("--model.init_args.net.", "--model.net.", 1)
            if setting.startswith(f"--{place}."):
                given = parser.parse_args([f"--{name}{setting.removeprefix(f'--{place}')}"], namespace=given)
    if given is None:
        return None
    if place == "model.net.vision":
        check_encoder(experiments_in(configs), arguments_of(given.as_dict(), name), [str(each) for each in configs])
    check_nulls(given.as_dict()[name], place)
    with refusing(configs[-1]):
        return parser.instantiate(given)[name]


@contextmanager
def refusing(config: str) -> Iterator[None]:
    """The parser's complaint as a ValueError that names the file."""
    try:
        yield
    except ArgumentError as error:
        raise ValueError(f"{config}: {reason(str(error))}") from error


def names(configs: Sequence[str]) -> str:
    """For a message."""
    return " or ".join(str(each) for each in configs if not is_setting(each))
