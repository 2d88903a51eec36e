"""The command line's parser. It adds what every experiment shares to what the YAML and the arguments say."""

import inspect
import operator
from collections.abc import Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser, Namespace, _loaders_dumpers, get_loader, set_loader
from lightning import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from lit_blip2.arguments import refuse
from lit_blip2.complaints import misspelt, without
from lit_blip2.config import Experiment, check_encoder, flat, read
from lit_blip2.contents import DEEPEST, INTEGER, Bounded, DataError, parsed_yaml
from lit_blip2.loggers import CSV, as_list, entitle, has_folder
from lit_blip2.nulls import check_nulls
from lit_blip2.refusals import tracebacks_shown
from lit_blip2.terminal import one_line

# The Trainer's defaults in this suite.
TRAINER = {
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": None, "default_hp_metric": False},  # null: the experiment's name
    },
    "log_every_n_steps": 50,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,  # val_check_interval counts batches, whatever an epoch is
    "use_distributed_sampler": False,  # each rank reads its own rows of a batch already
}
# Each is added to an experiment that names none of its kind.
CALLBACKS = [
    {"class_path": "lit_blip2.lit.callbacks.Checkpoints"},
    {"class_path": "lit_blip2.lit.callbacks.NonFinite"},
    {"class_path": "lit_blip2.lit.callbacks.StepProgressBar"},
]
# Kinds of callbacks, by how their classes end, and the Trainer's argument that switches them off, if there is one.
SWITCHES = {
    "Checkpoints": "enable_checkpointing",
    "ModelCheckpoint": "enable_checkpointing",
    "ProgressBar": "enable_progress_bar",
    "NonFinite": None,
}
HELP = (
    "An experiment is a YAML file: --config experiments/NAME.yaml. Settings behind it change single values, such as "
    "--model.net.itm=null; --print_config prints all settings. A run lies in runs/NAME. It gets a checkpoint at each "
    "validation and at its end, and a progress bar, unless the experiment names its own. --model, --data and "
    "--trainer.callbacks below list the classes that can be given. --model.help LitStage1, --data.help COCO and "
    "--trainer.callbacks.help EMA explain the arguments of one class. --allow NAME: the configuration of a checkpoint "
    "may also name this package, module or class; without it, only classes of lit_blip2 and of the experiment "
    "(SECURITY.md). Mistakes end in one line; --debug shows the traceback."
)

# Old name of a class -> its new name, so that older runs' config.yaml can still be read.
MOVED = {
    "lit_blip2.lit.scene_scores.SceneScores": "lit_blip2.mini.scene_scores.SceneScores",
    "lit_blip2.lit.ema.EMA": "lit_blip2.lit.callbacks.EMA",
}


class SuiteParser(LightningArgumentParser):
    """Reads arguments and YAML files; completes the logger's name and the callbacks.

    resume: whether the last command read asks to go on with an unfinished run; no setting of the run itself.
    reading: the file of `--config` that is being read. complaint: what was refused last. left_out: misspelt settings
    that were told, which files are read without. placed: the settings, by their dotted names, of the files read.
    """

    resume = False
    reading: Path | None = None
    complaint = ""
    left_out: frozenset[str] = frozenset()
    placed: frozenset[str] = frozenset()

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:
        config = super().parse_args(*args, **kwargs)
        if "trainer" in config:  # it is a command's parser, not the one above them
            config.trainer.logger = loggers(config.trainer.logger, config_files(config))
            config.trainer.callbacks = callbacks(config.trainer)
            self.resume = config.pop("resume", False)
            if (grace := config.pop("grace", None)) is not None:
                for each in [each for each in config.trainer.callbacks if kind(each) == "Checkpoints"]:
                    each.init_args.grace = grace
            try:
                vision = Experiment(config.as_dict(), "").vision
                check_encoder([read(file) for file in config_files(config)], vision, self.args)
                for part in ("model", "data"):
                    check_nulls(config.as_dict().get(part), part)
            except ValueError as error:
                self.error(str(error), error)
        return config

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """The settings in a file of `--config`. If it is wrong, ends as `error` does, and names the file."""
        self.reading = Path(str(path))
        try:
            SuiteParser.placed |= {each.lstrip(".") for each in flat(read(self.reading).settings, "")}
            return super().parse_path(path, *args, **kwargs)
        except (DataError, OSError) as error:
            self.error(str(error), error)
        finally:
            self.reading = None

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """The settings in a text, without those that are left out of files."""
        if self.reading and self.left_out:
            content = yaml.safe_dump(_without_settings(parsed_yaml(content, str(self.reading)), self.left_out))
        return super().parse_string(content, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print a line for each problem, and exit with status 2. The base class would print 50 lines of usage."""
        if not self.exit_on_error or tracebacks_shown():
            super().error(message, ex)
        SuiteParser.complaint = message
        refuse(self, message, str(self.reading or ""))


def parsed(parser: LightningArgumentParser, arguments: Sequence[str]) -> Namespace:
    """What a parser reads. If it refuses anything, prints a line for each argument, and for each misspelt setting of a
    file, and exits with status 2."""
    refused: SystemExit | None = None
    SuiteParser.left_out = SuiteParser.placed = frozenset()
    while True:
        try:
            config = parser.parse_args(arguments)
            break
        except SystemExit as stopped:
            if stopped.code != 2:
                raise
            rest, setting = without(arguments, SuiteParser.complaint), misspelt(SuiteParser.complaint)
            if rest is None and (setting is None or setting in SuiteParser.left_out):
                raise
            if rest is None:
                SuiteParser.left_out |= {setting}
            arguments, refused = arguments if rest is None else rest, stopped
    if refused is not None:
        raise refused
    return config


def _without_settings(values: Any, names: frozenset[str], place: str = "") -> Any:
    """The settings of a file without those in `names`, which are dotted places from the top, without init_args."""
    if not isinstance(values, dict):
        return values
    places = {key: place if key == "init_args" else f"{place}.{key}".lstrip(".") for key in values}
    return {key: _without_settings(values[key], names, here) for key, here in places.items() if here not in names}


def counts_before_shares() -> None:
    """Let the Trainer's arguments that may be a count or a share (limit_test_batches) read 1 as one batch.

    Lightning writes `int | float`, but typing may return `float | int` if it has met that before, depending on what
    was imported earlier. Then 1 becomes 1.0, which means all batches.
    """
    hints = inspect.unwrap(Trainer.__init__).__annotations__
    for name, hint in hints.items():
        if {int, float} <= set(kinds := get_args(hint)):
            hints[name] = reduce(operator.or_, [int, *(each for each in kinds if each is not int)])


def config_files(config: Namespace) -> list[Path]:
    """The files given by --config, in their order."""
    return [Path(str(file)) for file in config.config or [] if file is not None]


def loggers(logger: Any, files: list[Path]) -> Any:
    """The loggers, those with a folder for the run before those without (see loggers.py). A logger without a name is
    named after the experiment, so its runs lie in runs/NAME/version_N.

    The name is that of the first --config: mini_opt for experiments/mini_opt.yaml, and for a run's own config.yaml in
    runs/mini_opt/version_0.
    """
    if not (given := as_list(logger)):
        return logger
    if not any(map(has_folder, given)):
        given = [csv_logger().clone(), *given]
    if files:
        first = files[0].absolute()
        title = first.parent.parent.name if first.name == "config.yaml" else first.stem
        for each in given:
            entitle(each, title)
    return given if isinstance(logger, list) or len(given) > 1 else given[0]


@cache
def csv_logger() -> Namespace:
    """The CSVLogger, with all its arguments, to put before loggers without a folder for a run."""
    parser = ArgumentParser()
    parser.add_argument("--logger", type=Logger)
    settings = {"save_dir": TRAINER["logger"]["init_args"]["save_dir"], "name": None}
    return parser.parse_object({"logger": {"class_path": CSV, "init_args": settings}}).logger


def callbacks(trainer: Namespace) -> list[Namespace]:
    """The CALLBACKS whose kind the experiment does not name, then its own, without those that are switched off."""
    own = trainer.callbacks or []
    own = own if isinstance(own, list) else [own]
    named = {kind(each) for each in own}
    off = {name for name, switch in SWITCHES.items() if switch and trainer[switch] is False}
    shared = [each.clone() for each in default_callbacks() if kind(each) not in named]
    return [each for each in shared + own if kind(each) not in off]


def kind(callback: Namespace) -> str | None:
    """Which of SWITCHES a callback is, if any."""
    return next((name for name in SWITCHES if callback.class_path.endswith(name)), None)


@cache
def default_callbacks() -> list[Namespace]:
    """CALLBACKS with all their arguments."""
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    return parser.parse_object({"callbacks": CALLBACKS}).callbacks


class BoundedLoader(Bounded, _loaders_dumpers.get_yaml_default_loader()):
    """The loader of all YAML that jsonargparse reads, also of strings within settings, which it reads once more."""


BoundedLoader.add_constructor(INTEGER, BoundedLoader.construct_yaml_int)
_loaders_dumpers.yaml_default_loader = BoundedLoader
plain_yaml = get_loader("yaml")


def load_yaml(text: str) -> Any:
    """Parse YAML, with classes under their new names. In a single line the word None becomes null: jsonargparse passes
    the null of `--model.net.itm=null` on to the parser of `net` in this form."""
    words = MOVED if "\n" in text.strip() else MOVED | {"None": None}
    if text.count("[") + text.count("{") > DEEPEST:
        parsed_yaml(text, "the configuration")  # raises if it is too deep
    try:
        return replaced(plain_yaml(text), words)
    except RecursionError as error:
        raise DataError("its values are nested too deep") from error
    except yaml.YAMLError as error:  # its message has several lines
        raise DataError(one_line(error)) from error


def replaced(value: Any, words: dict[str, str | None]) -> Any:
    """A nested value with its strings replaced by `words`."""
    if isinstance(value, dict):
        return {key: replaced(each, words) for key, each in value.items()}
    if isinstance(value, list):
        return [replaced(each, words) for each in value]
    return words.get(value, value) if isinstance(value, str) else value


set_loader("yaml", load_yaml, exceptions=(DataError,))
