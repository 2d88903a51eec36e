"""cells.csv: a row for each cell, which is a setting at one seed. What is not known is empty, never zero."""

import csv
import io

from lit_blip2.ablation.report.costs import cell_cost
from lit_blip2.ablation.report.records import Sweep, is_number
from lit_blip2.ablation.schema import Cell
from lit_blip2.terminal import printable

FORMULA = ("=", "+", "-", "@", "\t", "\n")  # first characters of a formula
COSTS = ("seconds", "steps", "peak_memory_gib", "shared_seconds")


def cells_csv(sweep: Sweep) -> str:
    """The file's content."""
    axes = list(sweep.plan.axes) or list(dict.fromkeys(name for cell in sweep.cells for name in cell.labels))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["cell", *map(_text, axes), "seed", "state", *map(_text, sweep.metrics), *COSTS])
    writer.writerows(_line(sweep, cell, axes) for cell in sweep.cells)
    return file.getvalue()


def _line(sweep: Sweep, cell: Cell, axes: list[str]) -> list:
    labels = [_text(cell.labels.get(axis, "")) for axis in axes]
    metrics = [sweep.value(cell, metric) for metric in sweep.metrics]
    cost = cell_cost(sweep, cell)
    costs = [getattr(cost, name) for name in COSTS]
    return [_text(cell.name), *labels, cell.seed, sweep.state(cell), *metrics, *costs]  # csv writes None as nothing


def _text(text: str) -> str:
    """A text that a spreadsheet takes for text: it would run one that begins like a formula and is no number."""
    text = printable(text)
    return f"'{text}" if text.startswith(FORMULA) and not is_number(text) else text
