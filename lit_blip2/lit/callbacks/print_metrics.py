"""PrintMetrics: prints metrics after each evaluation."""

import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from rich.table import Table

from lit_blip2.console import Console
from lit_blip2.contents import read_object
from lit_blip2.evaluation.evaluated import TESTED_STEP, VALIDATED_STEP
from lit_blip2.lit.callbacks.step_progress_bar import tell
from lit_blip2.lit.evaluators.intervals import INTERVALS

HIDDEN = ("step", TESTED_STEP, VALIDATED_STEP)  # shown in the title


class PrintMetrics(L.Callback):
    """Prints the number of parameters before training, a line for each group of metrics (loss, retrieval, ...) after a
    validation, and a table of all metrics with their confidence intervals after a test."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            sizes = {trains: 0 for trains in (True, False)}
            for each in pl_module.parameters():
                sizes[each.requires_grad] += each.numel()
            tell(f"loaded {sizes[True]:,} parameters to train and {sizes[False]:,} frozen ones")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            fits = trainer.state.fn == TrainerFn.FITTING
            title = f"validation at step {trainer.global_step}" if fits else "validation"
            tell("\n".join([title, *groups(metrics_of(trainer))]))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir  # collective: all ranks must get here
        if not trainer.is_global_zero:
            return
        file = Path(folder or "", INTERVALS)
        intervals = read_object(file) if folder and file.exists() else {}
        Console().print(table(metrics_of(trainer), intervals))


def metrics_of(trainer: L.Trainer) -> dict[str, float]:
    """The metrics of the last evaluation, sorted by name, r5 before r10."""
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = [name for name in found if name not in HIDDEN and not name.startswith("train/")]
    return {name: found[name] for name in sorted(names, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split("([0-9]+)", name)]


def groups(metrics: Mapping[str, float]) -> list[str]:
    """`  retrieval   itc_txt_r1 0.894, itc_img_r1 0.906`: a line for each word before the slash."""
    named = [name.partition("/") for name in metrics]
    width = max([len(group) for group, *_ in named], default=0)
    lines = []
    for group, members in groupby(named, key=lambda each: each[0]):
        values = [f"{rest or group} {metrics[group + slash + rest]:.4g}" for _, slash, rest in members]
        lines.append(f"  {group:{width}}  {', '.join(values)}")
    return lines


def table(metrics: Mapping[str, float], intervals: Mapping[str, Mapping[str, float]]) -> Table:
    """A table with a row for each metric. intervals: low, high and images of the metrics that have an interval."""
    made = Table("metric", title="95 % intervals, bootstrap over images" if intervals else None)
    for head in ("value", "low", "high", "images"):
        made.add_column(head, justify="right")
    for name, value in metrics.items():
        ends = intervals.get(name)
        own = [f"{ends['low']:.4f}", f"{ends['high']:.4f}", str(ends["images"])] if ends else []
        made.add_row(name, str(int(value)) if value > 1 and value.is_integer() else f"{value:.4f}", *own)
    return made
