"""fit, validate, test and predict: LightningCLI with this suite's defaults (a run's folder, its config in each
checkpoint, results beside the run they belong to)."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lit_blip2.checkpoint import find_checkpoint
from lit_blip2.lit.callbacks import HParams, MetricsFile, Pictures, StopOnNonFinite
from lit_blip2.lit.module import LitBLIP2

EVALUATIONS = ("validate", "test", "predict")
TESTED = {"test", "vqa_test", "binding_test"}  # what a data module tests on


class SuiteCLI(LightningCLI):
    """`python -m lit_blip2 fit|validate|test|predict --config experiments/NAME.yaml`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"trainer.use_distributed_sampler": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str] | None) -> None:
        self.config = parser.parse_args(nulls_as_config(sys.argv[1:] if args is None else args))

    def before_instantiate_classes(self) -> None:
        """Evaluation of a checkpoint writes into that run's folder, or one in it (`_set`), unless the logger names a
        version; a folder stands for its last checkpoint."""
        config = self.config[self.subcommand]
        if config.trainer.enable_progress_bar is False:  # Lightning refuses a bar that an experiment brings along
            callbacks = config.trainer.callbacks or []
            config.trainer.callbacks = [each for each in callbacks if not each.class_path.endswith("ProgressBar")]
        if self.subcommand in EVALUATIONS and config.get("ckpt_path") is None:
            raise SystemExit(
                f"{self.subcommand} needs --ckpt_path, a checkpoint or a run's folder such as runs/mini_opt"
            )
        if config.get("ckpt_path") is None:
            return
        config.ckpt_path = str(find_checkpoint(config.ckpt_path))
        run = Path(config.ckpt_path).resolve().parent.parent
        logger = config.trainer.logger
        unplaced = hasattr(logger, "init_args") and logger.init_args.get("version") is None
        if self.subcommand in EVALUATIONS and (run / "config.yaml").exists() and unplaced:
            logger.init_args.save_dir = str(run.parent.parent)
            logger.init_args.name, logger.init_args.version = run.parent.name, str(Path(run.name, *self._set()))

    def _set(self) -> list[str]:
        """The name of a file, given behind an experiment, that says what to test on: its figures go into a folder of
        the run's, so that several test sets of one run keep apart."""
        if self.subcommand != "test":
            return []
        given = [Path(str(each)) for each in self.config.test.config or [] if each is not None]
        contents = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) or {} for file in given[1:]}
        named = [
            name for name, each in contents.items() if (each.get("data") or {}).get("init_args", {}).keys() & TESTED
        ]
        return named[-1:]

    def after_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.model.config = self._parser(self.subcommand).dump(config, skip_none=False, skip_validation=True)
        self.model.resumed = config.get("ckpt_path") is not None


def nulls_as_config(arguments: list[str]) -> list[str]:
    """`--model.net.itm=null` and `--model.net.bridge={..., init_args: {hidden: null}}` as the pieces of YAML they stand
    for: jsonargparse takes a null below the first class of a path for the word "None"."""
    joined = iter(arguments)
    result = []
    for argument in joined:
        key, equals, value = argument.partition("=")
        nested = key.startswith(("--model.", "--data.")) and key.count(".") > 1
        if not nested:
            result.append(argument)
            continue
        if not equals:
            value = next(joined, "--")
            if value.startswith("--"):  # the value was forgotten: what follows is an option of its own
                raise SystemExit(f"{key} needs a value, such as {key}=VALUE")
        if value in ("null", "~") or (value.startswith("{") and _holds_null(yaml.safe_load(value))):
            result += ["--config", json.dumps(_nested(key.removeprefix("--").split("."), yaml.safe_load(value)))]
        else:
            result.append(f"{key}={value}")
    return result


def _holds_null(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and any(map(_holds_null, value.values())))


def _nested(path: list[str], value: dict | None) -> dict:
    """{model: {init_args: {net: {init_args: {itm: null}}}}} for [model, net, itm] and null; every level but the last
    a class."""
    names = [name for name in path if name != "init_args"]
    for name in reversed(names[1:]):
        value = {"init_args": {name: value}}
    return {names[0]: value}


class SaveConfigOnFit(SaveConfigCallback):
    """config.yaml in the run's folder, written by fit alone: evaluating a run must not change it."""

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


def build(cli: type[SuiteCLI], arguments: list[str] | None = None, run: bool = True) -> SuiteCLI:
    """The command line with this suite's defaults; `run` as LightningCLI has it."""
    return cli(
        LitBLIP2,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfigOnFit,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_defaults={"callbacks": [MetricsFile(), StopOnNonFinite(), HParams(), Pictures()]},
        args=arguments,
        run=run,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run one of LightningCLI's commands; without arguments those of the command line."""
    build(SuiteCLI, arguments)
