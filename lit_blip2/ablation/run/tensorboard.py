"""A sweep in TensorBoard: a run per cell, with its row of the HParams table, its curves, and one page of overlays.

`tensorboard --logdir SWEEP/tensorboard`: runs are named by their toggles, `itc=on,itm=off,seed=0`, those of a
search by their trial, `trial=7`. Its tags:

    final/vqa/accuracy     what the cell ended with; the HParams table shows these of the compared metrics
    stage1/loss/total      a curve: the step's name, then the metric's, as two steps of a chain may write one metric

The view of parallel coordinates draws the cells that have every metric ticked on its left: untick what some cannot
have, and their lines appear.
"""

import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lit_blip2.ablation.folder import Folder, read_validations
from lit_blip2.ablation.schema import FAILED, STATES, Cell, is_finite
from lit_blip2.ablation.spec.grid import Grid


def write_cell(folder: Folder, grid: Grid, cell: Cell, state: str, metrics: Mapping[str, float | None]) -> None:
    """Write the cell's row and curves anew. A metric that it lacks stays empty; a failed cell has a row too."""
    from torch.utils.tensorboard import SummaryWriter

    run = folder.root / "tensorboard" / cell.name
    shutil.rmtree(run, ignore_errors=True)
    with SummaryWriter(str(run)) as writer:
        for summary in row(grid, cell, state):
            writer.file_writer.add_summary(summary)
        for metric in grid.metrics:
            if is_finite(metrics.get(metric)):  # nan would spoil the order of a sorted table
                writer.add_scalar(f"final/{metric}", metrics[metric])
        drawn = set()
        for name in cell.steps:
            for step, metric, value in curve(folder, name):
                writer.add_scalar(f"{name.partition('/')[0]}/{metric}", value, step)
                drawn.add(metric)
        if shown := [metric for metric in grid.metrics if metric in drawn]:
            writer.add_custom_scalars(layout(grid, shown))


def row(grid: Grid, cell: Cell, state: str) -> list[Any]:
    """The summaries that make a row of the HParams table: its columns, the cell's settings, how the cell ended.

    A setting is a word, given with all words that its column may hold, so that the column can be ticked by word. In a
    search it is a number.
    """
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    words = {axis: list(grid.axes[axis]) for axis in cell.labels if axis in grid.axes}
    words |= {"seed": [str(seed) for seed in grid.seeds], "state": list(STATES)}
    settings = {axis: float(label) if axis in grid.ranges else label for axis, label in cell.labels.items()}
    settings |= {"seed": str(cell.seed), "state": state}
    columns, start, end = hparams(settings, dict.fromkeys(f"final/{metric}" for metric in grid.metrics), words)
    if state == FAILED:
        status = HParamsPluginData.FromString(end.value[0].metadata.plugin_data.content)
        status.session_end_info.status = Status.Value("STATUS_FAILURE")
        end.value[0].metadata.plugin_data.content = status.SerializeToString()
    return [columns, start, end]


def curve(folder: Folder, step_run: str) -> Iterator[tuple[int, str, float]]:
    """(step, metric, value) of a run's validations; a value that is not finite is nan."""
    points, _ = read_validations(folder.validations(step_run))  # the report tells what cannot be read
    for point in points:
        for metric, value in point.metrics.items():
            yield point.step, metric, math.nan if value is None else value


def layout(grid: Grid, metrics: Iterable[str]) -> dict[str, dict[str, list]]:
    """One chart per metric, every cell's curve on it. TensorBoard merges the equal charts of all runs into one."""
    fits = "|".join(re.escape(name) for name, step in grid.steps.items() if step.command == "fit")
    return {grid.name: {metric: ["Multiline", [f"^({fits})/{re.escape(metric)}$"]] for metric in metrics}}
