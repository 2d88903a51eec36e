"""`params --memory`: an estimate of the GPU memory that an experiment needs, as a table."""

from typing import TYPE_CHECKING

from torch import nn

from lit_blip2.config import Experiment
from lit_blip2.memory import Need, plan

if TYPE_CHECKING:
    from rich.table import Table

PRECISIONS = {"32-true": False, "32": False, "bf16-mixed": True, "16-mixed": True}  # whether a step runs in 16 bits


def table(net: nn.Module, experiment: Experiment, devices: int, strategy: str, words: int) -> "Table":
    """The estimated memory of a training step in GB, for each part of the network. Raises ValueError for an experiment
    without data.batch_size or trainer, and for a precision that cannot be estimated."""
    from rich.table import Table

    file, data, trainer = experiment.source, experiment.data, experiment.trainer
    if "batch_size" not in data or not trainer:
        raise ValueError(f"{file}: no data with batch_size, or no trainer, in this file")
    micro_batches = devices * trainer.get("accumulate_grad_batches", 1)
    rows = -(-data["batch_size"] // micro_batches) if devices > 0 else 0
    precision = trainer.get("precision") or "32-true"
    if str(precision) not in PRECISIONS:
        raise ValueError(f"{file}: precision {precision!r} is not planned: {', '.join(PRECISIONS)}")
    bf16 = PRECISIONS[str(precision)]
    needs = plan(net, data.get("image_size") or net.vision.size, rows, words, devices, strategy, bf16)
    shown = Table(
        title=f"{file}: GB on each of {devices}, {strategy}, {rows} rows of {words} tokens at a time",
        caption="Add 1 to 3 GB for CUDA, NCCL and the allocator.",
    )
    shown.add_column("part")
    for name in (*Need._fields, "total"):
        shown.add_column(name, justify="right")
    total = Need(*(sum(column) for column in zip(*needs.values(), strict=True)))
    for name, need in (needs | {"total": total}).items():
        cells = [f"{size / 1e9:.2f}" for size in (*need, need.total)]
        shown.add_row(name, *cells, end_section=name == list(needs)[-1])
    return shown
