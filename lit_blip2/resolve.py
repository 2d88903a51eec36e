"""Resolves and checks experiments without weights, many in one process, before a sweep starts anything.

Reads a JSON list of requests from stdin and writes a JSON list of answers, in order:

    {"command": "fit" | "test", "arguments": ["--config", FILE, "--model.net.itm=null", ...], "files": whether the data
    files must be there}
    {"config": the resolved config, "metrics": names (patterns) that the command can write, "steps": max_steps,
    "missing": a line for each way to get data files and weights that are not there}
    or {"error": why this experiment cannot be run}
"""

import json
import sys
import warnings
from contextlib import redirect_stderr
from functools import lru_cache
from io import StringIO
from typing import Any

import torch
import yaml
from jsonargparse import Namespace

from lit_blip2.cli import SuiteCLI, build, looks_for_weights
from lit_blip2.complaints import reason
from lit_blip2.data.module import PairData
from lit_blip2.evaluation.pope import is_pope, metrics_of_samplings
from lit_blip2.evaluation.vqa import type_metric
from lit_blip2.lit.progress import check_intervals
from lit_blip2.lit.start import FROM_FILES
from lit_blip2.network import NoDraws
from lit_blip2.paths import run_all
from lit_blip2.terminal import one_line


class ParserOnly(SuiteCLI):
    """The command line's parser, with nothing parsed, built or run."""

    def parse_arguments(self, parser, args) -> None:
        self.config = parser.get_defaults()

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def after_instantiate_classes(self) -> None: ...


def resolve(cli: ParserOnly, command: str, arguments: list[str], files: bool = True) -> dict[str, Any]:
    """The answer to one request. What the model, the data module or a callback refuses is an error already here."""
    try:
        config, built = parse(cli, tuple(arguments))
        built.model.optimization.check(config.trainer.max_steps)
        if command == "fit":
            check_intervals(config.trainer)
            built.model.optimization.check_scaled(built.model, FROM_FILES)
        missing = [missing_files(built.data, command), missing_weights(built) if command == "fit" else None]
        missing = [each for each in missing if each is not None]
        if missing and files:
            raise FileNotFoundError("\n".join(map(str, missing)))
        names = metric_names(built, command, files)
        if command == "test" and (config.trainer.limit_test_batches == 0 or config.trainer.fast_dev_run):
            raise ValueError("trainer.limit_test_batches=0 or fast_dev_run: nothing would be tested, take it out")
        if command == "test" and not names:
            raise ValueError(
                f"nothing can be tested: the data have {', '.join(sorted(built.data.tasks('test'))) or 'no test set'}, "
                "and the model evaluates none of it. Name a test set in the step's `with`, such as "
                "experiments/zero_shot/vqav2_val.yaml, or take the step out"
            )
    except FileNotFoundError as error:
        return {"error": one_line(error)}
    except Exception as error:
        return {"error": reason(str(error))}
    return {
        "config": yaml.safe_load(cli.parser.dump(config, skip_none=False, skip_validation=True)),
        "metrics": sorted(names),
        "steps": config.trainer.max_steps,
        "missing": [line for each in missing for line in str(each).splitlines()],
    }


def missing_files(data: PairData, command: str) -> FileNotFoundError | None:
    """The error for files that the command would miss, or None. A test's images are included: it would miss them hours
    later."""
    try:
        data.check_files(command)
        if command == "test":
            data.check_folder("test")
    except FileNotFoundError as error:
        return error
    return None


def missing_weights(built: Namespace) -> FileNotFoundError | None:
    """Which frozen weights or tokenizers training would miss, or could not read. A test reads those of its fit."""
    try:
        run_all(*looks_for_weights(built.model.net, built.data))
    except (OSError, ValueError) as error:
        return FileNotFoundError(str(error))
    return None


@lru_cache(maxsize=16)  # a test has the arguments of its fit, and comes soon after it
def parse(cli: ParserOnly, arguments: tuple[str, ...]) -> tuple[Namespace, Namespace]:
    """The settings, and what is built of them on the meta device. Raises ValueError for what the parser refuses."""
    complaint = StringIO()
    try:
        with redirect_stderr(complaint), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.config = config = cli.parser.parse_args(list(arguments))
            with torch.device("meta"), NoDraws():
                return config, cli.parser.instantiate_classes(config)
    except SystemExit as error:
        said = [
            line.removeprefix("error: ") for line in complaint.getvalue().splitlines() if line.startswith("error: ")
        ]
        raise ValueError("; ".join(said)) from error


def metric_names(built: Namespace, command: str, files: bool) -> set[str]:
    """Metrics that the command will write. Without the files, a * stands for names that only the files tell."""
    if command == "fit" and not validates(built.trainer):
        return set()
    split = "test" if command == "test" else "val"
    tasks = built.data.tasks(split)
    names = built.model.metric_names(tasks, command)
    for callback in built.trainer.callbacks or []:
        if hasattr(callback, "metric_names"):
            names |= callback.metric_names(built.model, tasks, command)
    if "vqa/type_*" in names and built.data.vqa[split].get("annotations"):
        names -= {"pope/*", "vqa/yes_*"}  # POPE's answers are in its file of questions
    if files and "vqa/type_*" in names:
        types = built.data.question_types(split)
        names = names - {"vqa/type_*"} | {type_metric(name) for name in types}
        names -= {"pope/*"} if is_pope(types) else {"pope/*", "vqa/yes_*"}
        names |= metrics_of_samplings(types)
    return names


def validates(trainer: Namespace) -> bool:
    """Whether a fit with these Trainer arguments reaches a validation. Metrics are written only there.

    The Trainer counts batches up to the next validation. With gradient accumulation a step takes several batches.
    """
    interval, batches = trainer.val_check_interval, trainer.max_steps * trainer.accumulate_grad_batches
    beyond = isinstance(interval, int) and trainer.max_steps > 0 and interval > batches
    return trainer.limit_val_batches != 0 and not beyond


def main() -> None:
    cli = build(ParserOnly, run=False)
    answers = [resolve(cli, **request) for request in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
