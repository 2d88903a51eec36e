"""fit, validate, test and predict: LightningCLI with this suite's defaults (a run's folder, its config in each
checkpoint, results beside the run they belong to)."""

import os
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml
from jsonargparse import Namespace
from lightning import LightningDataModule
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from lit_blip2.config import Experiment, read
from lit_blip2.data import coco, conceptual, laion, mixture, questions, visual_genome  # noqa: F401  (for --help)
from lit_blip2.data import own as own_data  # noqa: F401  (for --help)
from lit_blip2.data.module import PairData
from lit_blip2.distributed import gather_lists
from lit_blip2.evaluation.predictions import PREDICTED
from lit_blip2.evaluation.rules import differing, folder_name, kept_rules, rules_of, told
from lit_blip2.failed_start import leaving_no_folder
from lit_blip2.go_on import check_folder, go_on, own_run
from lit_blip2.links import check_links
from lit_blip2.lit.callbacks import Agreement, Companions, HParams, MetricsFile, Pictures, PrintMetrics
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.quiet import quiet
from lit_blip2.lit.start import starting_checkpoint
from lit_blip2.loggers import folders, places
from lit_blip2.model.random_weights import RANDOM
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.parser import HELP, TRAINER, SuiteParser, config_files, counts_before_shares, parsed
from lit_blip2.paths import free_name, run_all
from lit_blip2.reads import READS
from lit_blip2.runs import CONFIG, JOB, Left, find_checkpoint, newest_checkpoint, run_of
from lit_blip2.stopping import STATUS, job_name
from lit_blip2.terminal import PROGRAM, say
from lit_blip2.trust import taken_allow
from lit_blip2.what_next import TESTED, after_fit, after_test
from lit_blip2.whole_files import write_text

ALWAYS = (Agreement, Companions, MetricsFile, PrintMetrics, HParams, Pictures)  # callbacks of every run
EVALUATIONS = ("validate", "test", "predict")


class SuiteCLI(LightningCLI):
    """`python -m lit_blip2 fit|validate|test|predict --config experiments/NAME.yaml`."""

    left: Left | None = None  # the run that a fit continues

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str] | None) -> None:
        self.given = sys.argv[1:] if args is None else args
        try:
            self.allow, rest = taken_allow(self.given)
        except ArgumentTypeError as error:
            parser.error(str(error))
        self.config = parsed(parser, rest)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would replace what --config says by a checkpoint's hyper-parameters, even classes."""

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults(verbose=False)  # the callback PrintMetrics has a table of its own
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                action="store_true",
                help="continue the newest unfinished run of the same settings in its own folder (default: start a "
                "new run)",
            )
            parser.add_argument(
                "--grace",
                type=float | None,
                help="after SIGTERM or Ctrl-C, wait at most this many seconds for the current step to end, then save a "
                "checkpoint (default: 30)",
            )
        return parser

    def before_instantiate_classes(self) -> None:
        """Set the checkpoint and the folder. A folder as --ckpt_path means its newest checkpoint. An evaluation writes
        into the checkpoint's run, or a folder in it (`_test_set`, `_by_rules`), unless a logger names a version. A fit
        continues a run, or gets a folder of its own."""
        config = self.config[self.subcommand]
        if self.subcommand in EVALUATIONS and config.get("ckpt_path") is None:
            raise ValueError(
                f"{self.subcommand} needs --ckpt_path, a checkpoint or a run's folder such as runs/mini_opt"
            )
        if self.subcommand == "fit":
            self.left = go_on(config, yaml.safe_load(self._dumped()), self._parser("fit").resume)
            if self.left is not None:
                return check_links(self.left.run)
        if config.get("ckpt_path") is not None:
            look = newest_checkpoint if self.subcommand == "fit" else find_checkpoint
            given, config.ckpt_path = config.ckpt_path, str(look(config.ckpt_path))
            if config.ckpt_path != str(Path(given)):
                rank_zero_info(f"--ckpt_path {given}: {config.ckpt_path} is its newest whole checkpoint")
        if self.subcommand == "fit":
            check_folder(config)
            self.left = own_run(config)
            return
        if self.subcommand not in EVALUATIONS:
            return
        run = run_of(Path(config.ckpt_path).resolve())
        own = places(config.trainer.logger)
        if (run / CONFIG).exists() and own and all(each.version is None for each in own):
            check_links(run)  # it is written into
            place = self._by_rules(run.joinpath(*self._test_set()))
            for each in own:
                each.save_dir, each.name = str(run.parent.parent), run.parent.name
                each.version = str(place.relative_to(run.parent))

    def _dumped(self) -> str:
        config = self.config[self.subcommand]
        return self._parser(self.subcommand).dump(config, skip_none=False, skip_validation=True)

    def _one_curve(self, left: Left) -> None:
        """Keep one log for a continued run: TensorBoard hides what was logged after the run's checkpoint."""
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger._kwargs["purge_step"] = left.step  # loggers count from 0; its writer is yet to be made
        self._keep_csv(left.run, f"metrics-to-step-{left.step}.csv")

    def _keep_csv(self, folder: Path, name: str) -> None:
        """Rename the metrics.csv of a folder: Lightning's CSVLogger would delete it."""
        if rank_zero_only.rank == 0 and (file := folder / "metrics.csv").exists():
            file.rename(free_name(file.with_name(name)))

    def _test_set(self) -> list[str]:
        """The name of the last file after the experiment that chooses a test set, so that a run's test sets stay apart.
        Parsed settings do not tell which file they came from, so the files are read again."""
        files = config_files(self.config.test)[1:] if self.subcommand == "test" else []
        return [file.stem for file in files if read(file).data.keys() & set(TESTED)][-1:]

    def _by_rules(self, folder: Path) -> Path:
        """Where results go: to `folder`, or a folder in it if it holds a test by other rules, such as scoring=lavis."""
        if self.subcommand != "test":
            return folder
        ours = rules_of(Experiment(self.config.test.as_dict(), "this test"))
        while other := differing(kept_rules(folder), ours):
            place = folder / folder_name({name: value for name, (_, value) in other.items()})
            rank_zero_info(f"{folder} holds a test by other rules ({told(other)}): results go to {place}")
            folder = place
        return folder

    def after_fit(self) -> None:
        """Print where the run is, how many steps it made, and what to type next."""
        changed = any(each.startswith(("--model", "--data")) for each in self.given)
        steps = f"{self.trainer.global_step} of {self.trainer.max_steps} steps"
        self._end(steps, lambda run, of: after_fit(run, config_files(self.config.fit), of, changed))

    def after_test(self) -> None:
        self._end("tested", lambda folder, of: after_test(run_of(Path(self.config.test.ckpt_path)), of))

    def after_predict(self) -> None:
        count = len(self.model.generation.predictions)
        self._end(f"{count:,} rows in {PREDICTED}", lambda folder, of: after_test(run_of(Path(folder)), of))

    def _end(self, how: str, next_lines: Callable[[Path, Experiment], list[str]]) -> None:
        folder = self.trainer.log_dir  # asks all ranks, so it comes before any of them leaves
        if not (folder and self.trainer.is_global_zero) or self.trainer.fast_dev_run:
            return
        experiment = Experiment(self.config[self.subcommand].as_dict(), "this run")
        lines = [] if READS in os.environ else next_lines(Path(folder), experiment)  # nobody types after a sweep's step
        say(f"{folder}: {how}", *(["next:"] if lines else []), *(f"  {line}" for line in lines))

    def after_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self._drop_summary(config.trainer.callbacks or [])
        self.model.config = self._dumped()
        self.model.allow = self.allow
        self.model.resumed = config.get("ckpt_path") is not None
        self._check_files()
        if self.left is not None:
            self._one_curve(self.left)
        if self.subcommand in EVALUATIONS:
            for folder in folders(config.trainer.logger)[:1]:
                self._keep_csv(folder, f"metrics-before-{self.subcommand}.csv")

    def _drop_summary(self, given: list[Namespace]) -> None:
        """Drop Lightning's ModelSummary, unless it was asked for: PrintMetrics prints the numbers of parameters."""
        if not any(each.class_path.endswith("ModelSummary") for each in given):
            own = [each for each in self.trainer.callbacks if not isinstance(each, ModelSummary)]
            self.trainer.callbacks = own

    def _check_files(self) -> None:
        """Raises FileNotFoundError with all missing data and frozen weights, before anything begins."""
        steps = [partial(self.datamodule.check_files, self.subcommand)] if isinstance(self.datamodule, PairData) else []
        steps += looks_for_weights(self.model.net, self.datamodule)
        start = None if self.model.resumed else getattr(self.model, "init_from", None)
        if self.subcommand == "fit" and start and not Path(start).exists():
            steps.append(partial(starting_checkpoint, start))
        run_all(*steps)

    def _run_subcommand(self, subcommand: str) -> None:
        with leaving_no_folder(self.trainer):
            super()._run_subcommand(subcommand)


def looks_for_weights(net: nn.Module, data: LightningDataModule) -> list[Callable[[], object]]:
    """Functions that raise FileNotFoundError where frozen weights of a network are not there. All are quick."""
    found = [net.load_tokenizers] if hasattr(net, "load_tokenizers") else []  # looks for the language model's folder
    vision = getattr(net, "vision", None) if getattr(data, "features", None) is None else None
    if isinstance(vision, VisionEncoder) and vision.weights != RANDOM:
        found.append(vision.weights_file)
    return found


class SaveConfigOnFit(SaveConfigCallback):
    """Writes config.yaml, and the name of the training job, into the run's folder. Only fit does so: evaluating a run
    must not change them. A continued run writes them again, but only after all checks, and each file as a whole or not
    at all."""

    def setup(self, trainer, pl_module, stage: str) -> None:
        pass

    def on_train_start(self, trainer, pl_module) -> None:
        folder = trainer.log_dir  # asks all ranks
        jobs = sorted({each for each in gather_lists([job_name()]) if each})  # torchrun has one for each machine
        if trainer.is_global_zero:
            if jobs:
                write_text(Path(folder, JOB), "\n".join(jobs) + "\n")
            write_text(Path(folder, self.config_filename), self.parser.dump(self.config, skip_none=False))
        trainer.strategy.barrier()


def build(cli: type[SuiteCLI], arguments: list[str] | None = None, run: bool = True) -> SuiteCLI:
    """The command line with this suite's defaults; `run` as LightningCLI has it."""
    counts_before_shares()
    quiet()
    return cli(
        LitBLIP2,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfigOnFit,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_class=SuiteParser,
        parser_kwargs={"prog": PROGRAM, **{each: {"description": HELP} for each in ("fit", *EVALUATIONS)}},
        trainer_defaults=TRAINER | {"callbacks": [each() for each in ALWAYS]},
        args=arguments,
        run=run,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run one of LightningCLI's commands. arguments: None: those of the command line.

    A run that a signal has ended exits with status 128 + the signal's number, as in a shell. Lightning would exit with
    0 after SIGTERM, and whoever waits for the run (a sweep, a cluster) would take it for a complete one.
    """
    try:
        build(SuiteCLI, arguments)
    except SIGTERMException as stopped:
        raise SystemExit(STATUS + signal.SIGTERM) from stopped
    except KeyboardInterrupt:
        raise SystemExit(STATUS + signal.SIGINT) from None
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):  # Lightning's own end of Ctrl-C
            raise SystemExit(STATUS + signal.SIGINT) from None
        raise
