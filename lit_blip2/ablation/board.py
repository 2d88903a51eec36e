"""A sweep in TensorBoard: a run per cell, with its row of the HParams table, its curves, and one page of overlays.

`tensorboard --logdir SWEEP/tensorboard`: runs are named by their toggles, `itc=on,itm=off,seed=0`.
"""

import json
import math
import shutil
from typing import Any

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.grid import Grid
from lit_blip2.ablation.plan import PlannedCell


def write_cell(folder: Folder, grid: Grid, cell: PlannedCell, record: dict[str, Any]) -> None:
    """The cell's row and curves, anew. A metric that it has not is nan: a crashed cell shows too."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    run = folder.root / "tensorboard" / cell.name
    shutil.rmtree(run, ignore_errors=True)
    finals = {metric: record["metrics"].get(metric, math.nan) for metric in grid.metrics}
    settings = {**cell.labels, "seed": cell.seed, "state": record["state"]}
    with SummaryWriter(str(run)) as writer:
        for summary in hparams(settings, {f"final/{metric}": math.nan for metric in finals}):
            writer.file_writer.add_summary(summary)
        for metric, value in finals.items():
            writer.add_scalar(f"final/{metric}", value)
        for name in cell.steps:
            for point in curve(folder, name):
                step = point.pop("step")
                for metric, value in point.items():
                    writer.add_scalar(metric, math.nan if value is None else value, step)
        writer.add_custom_scalars(layout(grid))


def curve(folder: Folder, step_run: str) -> list[dict[str, float | None]]:
    """The points of a run's validation.jsonl, in the order of steps."""
    file = folder.run(step_run) / "validation.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def layout(grid: Grid) -> dict[str, dict[str, list]]:
    """One chart per compared metric, every cell's curve on it."""
    return {grid.name: {metric: ["Multiline", [f"^{metric}$"]] for metric in grid.metrics}}
