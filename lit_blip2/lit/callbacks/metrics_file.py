"""metrics.json and validation.jsonl in a run's folder."""

import json
import math
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn


class MetricsFile(L.Callback):
    """`metrics.json` in the run's folder: flat, metric name -> number, the names of TensorBoard's tags.

    Written after validation and after testing; a test's metrics replace validation's of the same name. The command
    `validate` writes `validate.json`: its metrics must not mix with those of a test.

    `validation.jsonl`: one line of JSON for each validation of `fit`, {"step": steps taken, metric: number, ...} with
    the metrics of metrics.json; null for what is not finite. Steps rise: training that starts from step k drops the
    lines beyond k, which belong to a course that was left, and a line replaces its own step's. The file is never seen
    half written. A resumed run that gets a new folder has its own validations there.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir
        if trainer.is_global_zero and folder and (file := Path(folder, "validation.jsonl")).exists():
            write_whole(file, "".join(lines_before(file, trainer.global_step + 1)))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write(trainer)
            self._append(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    on_fit_end = on_test_end

    def _write(self, trainer: L.Trainer) -> None:
        folder = trainer.log_dir  # asks all ranks, so it comes before any of them leaves
        if not (trainer.is_global_zero and folder):
            return
        file = Path(folder) / ("validate.json" if trainer.state.fn == TrainerFn.VALIDATING else "metrics.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        metrics = json.loads(file.read_text()) if file.exists() else {}
        write_whole(file, json.dumps(dict(sorted((metrics | numbers(trainer)).items())), indent=2) + "\n")

    def _append(self, trainer: L.Trainer) -> None:
        folder = trainer.log_dir
        if not (trainer.is_global_zero and folder and trainer.state.fn == TrainerFn.FITTING):
            return
        finite = {name: value if math.isfinite(value) else None for name, value in sorted(numbers(trainer).items())}
        line = json.dumps({"step": trainer.global_step} | finite, allow_nan=False) + "\n"
        file = Path(folder, "validation.jsonl")
        write_whole(file, "".join([*lines_before(file, trainer.global_step), line]))


def numbers(trainer: L.Trainer) -> dict[str, float]:
    """All that has been logged so far."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name != "step"}


def lines_before(file: Path, step: int) -> list[str]:
    """The lines of a validation.jsonl whose step is less than `step`; none where there is no file."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [line for line in lines if json.loads(line)["step"] < step]


def write_whole(file: Path, text: str) -> None:
    """Replace a file at once."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(file)
