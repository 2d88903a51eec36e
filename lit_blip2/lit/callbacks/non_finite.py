"""NonFinite: ends the run, or skips the step, if a loss or the gradient norm is not finite.

Legend: R ranks, V values of a step: the losses of each micro-batch, then the gradient norm.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lit_blip2.checkpoint import trainable_state
from lit_blip2.distributed import gather, rank, world_size
from lit_blip2.lit.finite import check_finite, gradient_norm, not_finite
from lit_blip2.lit.kept_batch import FOLDER, keep
from lit_blip2.terminal import first_few

STEPS_LATE = {"cpu": 0}  # how many steps later values are read, by kind of device; 1 on others
MOST_KEPT = 3  # batches that a run saves, which may skip many steps
MOST_IN_A_ROW = 25  # consecutive skipped steps: the next one ends the run
SHOWN = 8  # rows that a message names
GRADIENT = "the gradient norm"


@dataclass
class Step:
    """A step of this rank.

    batches: its micro-batches, as they were on the host. names: of its values [V]. losses: until the optimiser step,
    the losses. read: after it, a function that gives the values of all ranks, float32 [R, V].
    """

    batches: list[dict[str, Any]] = field(default_factory=list)
    names: list[tuple[int, str]] = field(default_factory=list)  # micro-batch, objective
    losses: list[Tensor] = field(default_factory=list)
    read: Callable[[], Tensor] | None = None


class NonFinite(L.Callback):
    """Stops the run, or skips the step, if a loss or the gradient norm of a step is NaN or infinite.

    Such a step changes neither the weights nor the optimiser's state, on any rank. Its batch is saved in `not_finite/`
    in the run's folder, for `python -m lit_blip2 replay FILE`. No checkpoint is written after a step that stops the
    run. On a GPU the values are read one step late, so that the GPU does not wait for the CPU.

    With 16-mixed only the losses are checked: Lightning's loss scaling skips steps with overflowing gradients.

    Args:
        then: stop: the run ends with a FloatingPointError that names step, objective and rows. skip: the run leaves
            the step out and continues; train/skipped_steps counts such steps, and more than 25 in a row end the run.
    """

    def __init__(self, then: Literal["stop", "skip"] = "stop"):
        if then not in ("stop", "skip"):
            raise ValueError(f"then={then!r} must be stop or skip")
        self.then, self.skipped, self.in_a_row, self.kept = then, 0, 0, 0
        self.under_way, self.pending = Step(), []
        self.ended_by = ""
        self.folder: Path | None = None

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a checkpoint. Raises FloatingPointError if no checkpoint may be written."""
        self._look(0)
        return {"skipped": self.skipped, "in_a_row": self.in_a_row} if self.skipped else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.under_way, self.pending, self.ended_by = Step(), [], ""
        self.module, log_dir = pl_module, trainer.log_dir  # collective
        self.folder = log_dir and Path(log_dir, FOLDER)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        batch, losses = pl_module.latest
        own, place = self.under_way, len(self.under_way.batches)
        own.batches.append(batch)
        own.names += [(place, name) for name in losses]
        own.losses += losses.values()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        step, self.under_way = self.under_way, Step()
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        values = step.losses if scaled else [*step.losses, gradient_norm(optimizer)]
        values_RV = gather(torch.stack([each.float().to(values[0].device) for each in values])[None])
        if not scaled:  # torch's fused optimisers skip a step if this is 1
            optimizer.found_inf = (~values_RV.isfinite()).any().float()
        step.losses, step.read = [], on_its_way(values_RV)
        self.pending.append(step)
        self._look(STEPS_LATE.get(values_RV.device.type, 1))
        if self.then == "skip" and pl_module.logs_this_step():
            self._log(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(0)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.then == "skip" and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._log(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(0)
        if self.then == "skip":
            self._log(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises FloatingPointError if the last step left weights that are not finite. Saving a checkpoint checks this
        too, but a run may save none."""
        check_finite({"global_step": trainer.global_step, "state_dict": trainable_state(pl_module)})

    def _log(self, pl_module: L.LightningModule) -> None:
        pl_module.log("train/skipped_steps", float(self.skipped))

    def _look(self, late: int) -> None:
        """Check the values of all steps but the last `late` ones. Raises FloatingPointError if the run must end."""
        if self.ended_by:
            raise FloatingPointError(self.ended_by)
        while len(self.pending) > late:
            step = self.pending.pop(0)
            values = step.read().tolist()
            if all(isfinite(each) for of_rank in values for each in of_rank):
                self.in_a_row = 0
                continue
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            told = self._told(step, values)
            if self.then == "stop" or self.in_a_row > MOST_IN_A_ROW:
                self.ended_by = f"{told}. {WAY_OUT}"
                raise FloatingPointError(self.ended_by)
            rank_zero_warn(f"{told}: the step is left out, {self.skipped} so far")

    def _told(self, step: Step, values: list[list[float]]) -> str:
        """A sentence on what is wrong with a step. Saves its batch to a file."""
        batch, odd = step.batches[0], _odd(step, values)
        own = sorted({place for of, place, _, _ in odd if of == rank() and place is not None})
        batches = [step.batches[place] for place in own] or step.batches
        first = f"step {batch['step']}: {_first(odd)}; {blamed(self.module, batches)}"
        everywhere = all(place is None for _, place, _, _ in odd)
        if self.folder is None or self.kept >= MOST_KEPT or not (own or everywhere):
            return first
        self.kept += 1
        file = self.folder / (f"step_{batch['step']}" + (f"_rank_{rank()}" if world_size() > 1 else "") + ".pt")
        found = [dict(zip(("rank", "micro_batch", "name", "value"), each)) for each in odd]
        keep(file, {"step": batch["step"], "rank": rank(), "ranks": world_size(), "found": found, "batches": batches})
        return f"{first}; `python -m lit_blip2 replay {file}` shows where it arises"


WAY_OUT = (
    "Lower the learning rate, lengthen the warm-up, train in bf16-mixed or 32-true instead of 16-mixed, or leave such "
    "steps out by --trainer.callbacks+='{class_path: lit_blip2.lit.callbacks.NonFinite, init_args: {then: skip}}'"
)


def on_its_way(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy values to the host. Returns a function that waits for the copy and returns it."""
    if values.device.type != "cuda":
        return values.cpu
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return lambda: arrived.synchronize() or host


def _odd(step: Step, values: list[list[float]]) -> list[tuple[int, int | None, str, float]]:
    """(rank, micro-batch, objective, value) of each value that is not finite, in the order of computation. The total
    loss is included only if no other loss is among them, the gradient norm only if no loss is."""
    names = [*step.names, (None, GRADIENT)]  # scaled gradients have no norm here
    odd = [
        (number, place, name, value)
        for number, of_rank in enumerate(values)
        for (place, name), value in zip(names, of_rank)
        if not isfinite(value)
    ]
    odd.sort(key=lambda each: len(step.batches) if each[1] is None else each[1])
    own = [each for each in odd if each[2] not in ("total", GRADIENT)]
    return own or [each for each in odd if each[2] == "total"] or odd


def _first(odd: list[tuple[int, int | None, str, float]]) -> str:
    """A text on the first of these values, and the names of the others."""
    number, _, name, value = odd[0]
    if name == GRADIENT:
        return f"{GRADIENT} is {value}, and no loss is"
    of = f"rank {number}'s loss" if world_size() > 1 else "the loss"
    others = list(dict.fromkeys(other for _, _, other, _ in odd if other != name))
    return f"{of} {name} is {value}" + (f", then {', '.join(others)}" if others else "")


def blamed(module: L.LightningModule, batches: list[dict[str, Any]]) -> str:
    """A text on the cause, as far as weights and batches show it: weights that are not finite, or else the rows whose
    own inputs are not finite, or else all rows."""
    if odd := not_finite(trainable_state(module)):
        return f"the weights held such numbers already ({odd[0]}), so no image is to blame"
    rows = [(int(row), int(image)) for each in batches for row, image in zip(each["row"], each["image_id"])]
    bad = [pair for each in batches for pair in faulty_rows(each)]
    if bad:
        return f"numbers that are not finite come with {_named(bad)}"
    return f"weights and inputs are finite, so no row is to blame by itself; the batch is {_named(rows)}"


def faulty_rows(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """(row, image id) of a batch's rows whose own inputs hold nan or inf."""
    rows, images = batch["row"].tolist(), batch["image_id"].tolist()
    inputs = [each for each in batch.values() if isinstance(each, Tensor) and each.shape[:1] == batch["row"].shape]
    is_bad = [any(not each[place].isfinite().all() for each in inputs) for place in range(len(rows))]
    return [pair for pair, bad in zip(zip(rows, images), is_bad) if bad]


def _named(pairs: list[tuple[int, int]]) -> str:
    return first_few([f"row {row} (image {image})" for row, image in pairs], SHOWN)
