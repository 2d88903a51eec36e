"""What every run leaves behind: metrics.json, validation.jsonl, a row in TensorBoard's HParams table; and an early end
where a loss is not finite."""

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


class MetricsFile(L.Callback):
    """`metrics.json` in the run's folder: flat, metric name -> number, the names of TensorBoard's tags.

    Written after validation and after testing; a test's figures replace validation's of the same name. The command
    `validate` writes `validate.json`: its figures must not mix with those of a test.

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


class StopOnNonFinite(L.Callback):
    """Ends the run with an error that names step and batch when a loss is not finite.

    On a CPU before the weights are touched. On a device the losses are looked at together, every
    `log_every_n_steps` and before each checkpoint, because a look at every step would stall it.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        step, image_ids_B = pl_module.last_batch
        self.seen.append((step, loss.detach(), image_ids_B))
        if loss.device.type == "cpu" or len(self.seen) >= trainer.log_every_n_steps:
            self._look()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._look()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look()

    def _look(self) -> None:
        seen, self.seen = self.seen, []
        if not seen:
            return
        finite = torch.stack([loss for _, loss, _ in seen]).isfinite().tolist()
        if not all(finite):
            step, loss, image_ids_B = seen[finite.index(False)]
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}, images {image_ids_B.tolist()[:8]}...: lower the learning "
                "rate, lengthen the warm-up, or train in bf16-mixed or 32-true instead of 16-mixed"
            )


class HParams(L.Callback):
    """A row in TensorBoard's HParams table with curated flat keys; the metrics fill in as they are logged.

    Tags start as nan, so that a run that crashed shows too.
    """

    METRICS = (
        "loss/itc", "loss/itm", "loss/itg", "loss/lm", "retrieval/itc_txt_r1", "retrieval/itc_img_r1",
        "retrieval/itm_txt_r1", "retrieval/itm_img_r1", "binding/itc_accuracy", "binding/itm_accuracy",
        "vqa/accuracy", "vqa/mean_over_types", "caption/cider",
    )  # fmt: skip

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(trainer.logger, L.pytorch.loggers.TensorBoardLogger):
            settings = curated(yaml.safe_load(pl_module.config) or {}) if pl_module.config else {}
            trainer.logger.log_hyperparams(settings, {name: math.nan for name in self.metrics_of(pl_module)})

    def metrics_of(self, pl_module: L.LightningModule) -> list[str]:
        """The metrics that this module can have."""
        own = ("loss/lm", "vqa/accuracy", "vqa/mean_over_types", "caption/cider")
        generates, represents = pl_module.generation is not None, pl_module.representation is not None
        return [name for name in self.METRICS if (generates if name in own else represents)]


def curated(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that people compare: objectives on or off, sizes, the optimiser, the data's seed and batch."""
    model, data = (config.get(part, {}).get("init_args", {}) for part in ("model", "data"))
    net = model.get("net", {}).get("init_args", {})
    bridge = net.get("bridge") or {}
    qformer = (net.get("qformer") or bridge.get("init_args", {}).get("qformer") or {}).get("init_args", {})
    optimization = (model.get("optimization") or {}).get("init_args", {})
    settings: dict[str, Any] = {}
    objectives = ("itc", "itm", "itg", "lm") if "lm" in net else ("itc", "itm", "itg")
    if "bridge" not in net:
        settings |= {name: "on" if net.get(name) else "off" for name in objectives}
    else:
        settings["stage1"] = "on" if model.get("init_from") else "off"
        settings["bridge"] = bridge.get("class_path", "").rpartition(".")[2]
    if language := net.get("language", {}).get("init_args", {}):
        settings["llm"] = language.get("name", "")
        settings["llm_frozen"] = "on" if language.get("frozen", True) else "off"
    settings |= {name: qformer[name] for name in ("num_queries", "hidden", "layers") if name in qformer}
    settings |= {name: optimization[name] for name in ("lr", "warmup_steps") if name in optimization}
    settings |= {name: data[name] for name in ("batch_size",) if name in data}
    settings["seed"], settings["data_seed"] = config.get("seed_everything", 0), data.get("seed", 0)
    settings["steps"] = config.get("trainer", {}).get("max_steps", -1)
    return settings
