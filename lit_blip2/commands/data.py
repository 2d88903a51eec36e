"""`python -m lit_blip2 data ...`: what is done once with data on disk, before any run."""

import json
from inspect import getdoc

from jsonargparse import ArgumentParser

from lit_blip2.commands.check import check
from lit_blip2.commands.features import features
from lit_blip2.commands.mini import make_mini, make_models
from lit_blip2.data.experiment import is_setting
from lit_blip2.data.shards.indexing import index_shards
from lit_blip2.data.shards.packing import pack
from lit_blip2.terminal import say

COMMANDS = {
    "make-mini": make_mini,
    "make-models": make_models,
    "features": features,
    "index": index_shards,
    "check": check,
    "pack": pack,
}


def parser() -> ArgumentParser:
    """A subcommand for each function, its options from the signature, their help from the docstring. What reads an
    experiment takes it by --config, as the other commands do."""
    made = ArgumentParser(prog="python -m lit_blip2 data", description=__doc__)
    commands = made.add_subcommands()
    for name, function in COMMANDS.items():
        said = getdoc(function).partition("\nArgs:")[0]
        one = ArgumentParser(description=said)
        one.add_function_arguments(function, as_positional=function not in (check, features, pack))
        commands.add_subcommand(name, one, help=said.splitlines()[0])
    return made


def main(arguments: list[str]) -> int:
    """Parse and run; 0, 1 for data with faults, or 2 for what cannot be done, with the reason."""
    made = parser()
    given = made.instantiate_classes(made.parse_args(configs_joined(arguments)))
    try:
        return COMMANDS[given.subcommand](**given[given.subcommand]) or 0
    except (ValueError, OSError, ImportError) as error:
        say(f"error: {error}", error=True)
        return 2


def configs_joined(arguments: list[str]) -> list[str]:
    """Every `--config FILE`, and every setting of the experiment behind them, as one list, as `fit` takes them."""
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
