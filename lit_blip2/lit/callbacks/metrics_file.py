"""MetricsFile: writes metrics.json and validation.jsonl in a run's folder."""

import json
import math
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lit_blip2.contents import DataError, parsed_json, read_text
from lit_blip2.evaluation import items, rules
from lit_blip2.evaluation.evaluated import (
    METRICS,
    PREFIX,
    RANDOM,
    TESTED_STEP,
    VALIDATED_STEP,
    is_tested,
    random_marks,
    read_metrics,
    step_in,
    unit_of,
)
from lit_blip2.evaluation.predictions import PREDICTIONS, SUBMISSIONS
from lit_blip2.lit.evaluators.intervals import INTERVALS
from lit_blip2.network import random_parts
from lit_blip2.runs import is_same_run
from lit_blip2.whole_files import write_json, write_text


class MetricsFile(L.Callback):
    """Writes the metrics of a run to `metrics.json` and `validation.jsonl` in its folder.

    `metrics.json` maps metric names (TensorBoard's tags) to numbers; a number that is not finite becomes null, with a
    warning. It is written after validation and after a test. The metrics of a test replace those of validation, and so
    do the counts: evaluated/test_images replaces evaluated/val_images. evaluated/val_step and evaluated/test_step are
    the optimiser steps of the evaluated weights. Parts with random weights are marked, such as
    evaluated/random_language_model. When training continues after a test, the test's metrics are removed, and its
    predictions and submission files are renamed to predictions.step=4.jsonl, for a test of step 4. The command
    `validate` writes `validate.json` instead, so that its metrics do not mix with those of a test.

    `validation.jsonl` has one line of JSON for each validation of `fit`, {"step": step, metric: number, ...}, with the
    metrics of metrics.json. Steps increase: training that restarts from step k drops the lines after k, and a new line
    replaces one of the same step. The file is replaced as a whole, so readers never see half of it. A resumed run in a
    new folder has only its own validations there. Checkpoints hold the last training metrics, so that a validation at
    the start of a resumed run has them too.
    """

    def __init__(self) -> None:
        self.logged: dict[str, float | None] = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        logged = self.logged | numbers(trainer)
        checkpoint["logged"] = {name: value for name, value in logged.items() if name.startswith("train/")}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        goes_on = trainer.state.fn == TrainerFn.FITTING and is_same_run(checkpoint.get("config"), pl_module.config)
        self.logged = checkpoint.get("logged", {}) if goes_on else {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir
        if not (trainer.is_global_zero and folder):
            return
        if (file := Path(folder, "validation.jsonl")).exists():
            write_text(file, "".join(lines_before(file, trainer.global_step + 1)))
        if (file := Path(folder, METRICS)).exists():
            tested = is_tested(read_metrics(file))
            if tested or not trainer.global_step:
                name_by_step(Path(folder), step_in(read_metrics(file), TESTED_STEP))
                for name in (METRICS, rules.FILE, items.FILE, INTERVALS):
                    Path(folder, name).unlink(missing_ok=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            warn_of_odd(trainer, trainer.global_step)
            fits = trainer.state.fn == TrainerFn.FITTING
            step = trainer.global_step if fits else pl_module.trained_steps
            self._write(trainer, pl_module, {VALIDATED_STEP: float(step)})
            self._append(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        warn_of_odd(trainer, pl_module.trained_steps)
        self._write(trainer, pl_module, {TESTED_STEP: float(pl_module.trained_steps)})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, of: dict[str, float] | None = None) -> None:
        """Write all metrics. of: the step of the evaluated weights; None if nothing was evaluated."""
        folder = trainer.log_dir  # collective: all ranks must get here
        if not (trainer.is_global_zero and folder):
            return
        file = Path(folder) / ("validate.json" if trainer.state.fn == TrainerFn.VALIDATING else METRICS)
        file.parent.mkdir(parents=True, exist_ok=True)
        new = self._found(trainer, pl_module) | (of or {})
        metrics = merged(read_metrics(file) if file.exists() else {}, new)
        write_json(file, dict(sorted(metrics.items())))

    def _found(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        """All metrics, and the marks of parts with random weights."""
        return self.logged | numbers(trainer) | random_marks(random_parts(pl_module))

    def _append(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir
        if not (trainer.is_global_zero and folder and trainer.state.fn == TrainerFn.FITTING):
            return
        logged = dict(sorted(self._found(trainer, pl_module).items()))
        line = json.dumps({"step": trainer.global_step} | logged, allow_nan=False) + "\n"
        file = Path(folder, "validation.jsonl")
        write_text(file, "".join([*lines_before(file, trainer.global_step), line]))


def name_by_step(folder: Path, step: int | None) -> None:
    """Rename a test's predictions and submission files, so that their names tell its step; None: `earlier`."""
    for name in (PREDICTIONS, *(file for file, _, _ in SUBMISSIONS.values())):
        if (file := folder / name).exists():
            kept = file.with_suffix(f".{'earlier' if step is None else f'step={step}'}{file.suffix}")
            file.replace(kept)
            rank_zero_warn(f"{file} is of a test before this training went on: it is kept as {kept.name}")


def numbers(trainer: L.Trainer) -> dict[str, float | None]:
    """name -> value of all logged metrics; None for a value that is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in _logged(trainer).items()}


def warn_of_odd(trainer: L.Trainer, step: int) -> None:
    """Warn of logged metrics that are not finite. step: step of the evaluated weights."""
    if odd := [f"{name} is {value}" for name, value in _logged(trainer).items() if not math.isfinite(value)]:
        rank_zero_warn(f"step {step}: {', '.join(odd)}: not finite, so null stands for it among the run's metrics")


def _logged(trainer: L.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name != "step"}


def merged(before: dict[str, float | None], new: dict[str, float | None]) -> dict[str, float | None]:
    """Old metrics updated by new ones. An evaluation replaces all old metrics of its units (images, questions, pairs),
    because these may be of other rows. A test of another checkpoint replaces everything."""
    if before.get(TESTED_STEP, step := new.get(TESTED_STEP)) != step is not None:
        return new  # the old metrics are of another checkpoint
    units = {unit_of(name) for name in new if name.startswith(PREFIX)}
    left = {name: value for name, value in before.items() if unit_of(name) not in units}
    return {name: value for name, value in left.items() if not name.startswith(RANDOM)} | new


def lines_before(file: Path, step: int) -> list[str]:
    """The lines of a validation.jsonl whose step is less than `step`; none without the file. Raises DataError for a
    line without a step."""
    lines = read_text(file).splitlines(keepends=True) if file.exists() else []
    return [line for number, line in enumerate(lines, 1) if _step(line, f"{file}: line {number}") < step]


def _step(line: str, where: str) -> int:
    told = parsed_json(line, where)
    if not isinstance(told, dict) or type(told.get("step")) is not int:
        raise DataError(f"{where} tells no step of a validation: remove it")
    return told["step"]
