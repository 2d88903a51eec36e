"""Builds the parts of an experiment that data commands need: its data module, and the encoder of cached features."""

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

SETTINGS = ("--data.", "--model.net.", "--model.init_args.net.")  # settings that these commands use


def read_data(configs: Sequence[str]) -> PairData:
    """The data module of an experiment, set to read images. Raises ValueError if it has none, or an invalid one."""
    data = built(configs, "data", PairData)
    if data is None:
        raise ValueError(f"no `data` in {names(configs)}: give an experiment, such as experiments/mini_stage1.yaml")
    data.features = None
    return data


def experiments_in(configs: Sequence[str]) -> list[Experiment]:
    """The experiments in those `configs` that are files."""
    return [read(Path(each)) for each in configs if not is_setting(each)]


def is_setting(config: str) -> bool:
    """Whether it is a setting such as --data.batch_size=4, not a file."""
    return str(config).startswith(SETTINGS)


def built(configs: Sequence[str], place: str, kind: type) -> Any:
    """Build the object that an experiment describes at a place such as data or model.net.vision; None if it describes
    none. kind: its class. configs: files, then settings, as in `fit`; each overrides those before it. Raises ValueError
    that names the file or the setting."""
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
    """Turn the parser's ArgumentError into a ValueError that names the file."""
    try:
        yield
    except ArgumentError as error:
        raise ValueError(f"{config}: {reason(str(error))}") from error


def names(configs: Sequence[str]) -> str:
    """The names of the files, for a message."""
    return " or ".join(str(each) for each in configs if not is_setting(each))
