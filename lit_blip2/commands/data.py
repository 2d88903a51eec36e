"""Prepare data on disk before training: make the mini-world and models for it, cache features, index and pack tar
shards, check an experiment's data."""

import json
from inspect import getdoc
from typing import NoReturn

from jsonargparse import ArgumentParser

from lit_blip2.arguments import refuse, refused
from lit_blip2.commands.check import check
from lit_blip2.commands.features import features
from lit_blip2.commands.mini import make_mini, make_models
from lit_blip2.data.experiment import is_setting
from lit_blip2.data.shards.indexing import index_shards
from lit_blip2.data.shards.packing import pack
from lit_blip2.refusals import tracebacks_shown
from lit_blip2.terminal import PROGRAM

COMMANDS = {
    "make-mini": make_mini,
    "make-models": make_models,
    "features": features,
    "index": index_shards,
    "check": check,
    "pack": pack,
}


class DataParser(ArgumentParser):
    """Prints errors as the parsers of the other commands do."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or tracebacks_shown():
            super().error(message, ex)
        refuse(self, message)


def parser() -> ArgumentParser:
    """A subcommand for each function: the options come from its signature, their help from its docstring. Commands
    that read an experiment take it by --config."""
    made = DataParser(prog=f"{PROGRAM} data", description=__doc__)
    commands = made.add_subcommands()
    for name, function in COMMANDS.items():
        said = getdoc(function).partition("\nArgs:")[0]
        one = DataParser(description=said)
        one.add_function_arguments(function, as_positional=function not in (check, features, pack))
        commands.add_subcommand(name, one, help=said.splitlines()[0])
    return made


def main(arguments: list[str]) -> int:
    """Parse and run. Returns the exit status: 0; 1 if `check` finds faults; 2 after an error, whose reason is
    printed."""
    made = parser()
    given = made.instantiate_classes(made.parse_args(configs_joined(arguments)))
    try:
        return COMMANDS[given.subcommand](**given[given.subcommand]) or 0
    except (ValueError, OSError, ImportError) as error:
        return refused(error)


def configs_joined(arguments: list[str]) -> list[str]:
    """Collect every `--config FILE` and every setting of the experiment into one `--config` list, as `fit` reads
    them."""
    rest, configs, following = [], [], iter(arguments)
    for argument in following:
        name, equals, value = argument.partition("=")
        if name == "--config":
            configs.append(value if equals else next(following, ""))
        elif is_setting(argument):
            configs.append(argument if equals else f"{name}={next(following, '')}")
        else:
            rest.append(argument)
    return [*rest[:1], f"--config={json.dumps(configs)}", *rest[1:]] if configs else rest
