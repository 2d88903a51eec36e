"""Rebuilds the plan of a sweep of which only the cells' records were kept. The question, cells and seeds come from the
ablation's file beside the records, or else from the current file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_blip2.ablation.schema import Cell, Plan, Record, setting_name
from lit_blip2.ablation.spec.grid import Grid, run_name
from lit_blip2.ablation.spec.read import EXAMPLE, read_grid

NOTICE = (
    "> **Made of the cells' records alone:** there is no plan.json beside them. What was asked stands in {file} as "
    "it is now; curves, costs and the settings of the runs are not known."
)


def ablation_of(folder: Path) -> Path:
    """The file of the ablation that a folder is named after: the one beside the records if it exists, for the ablation
    may have changed since; else the current one."""
    name = f"{folder.resolve().name}.yaml"
    return own if (own := folder / name).is_file() else EXAMPLE.with_name(name)


def plan_of_records(folder: Path, records: Mapping[str, Record]) -> Plan | None:
    """The rebuilt plan; None if there are no records, or no ablation of the folder's name, or if it is a search. Raises
    ValueError for a faulty ablation."""
    file = ablation_of(folder)
    if not records or not file.is_file() or (grid := read_grid(file)).ranges:
        return None
    settings = [point.labels for point in grid.points()]
    seeds = sorted({*grid.seeds, *(record.seed for record in records.values() if record.labels in settings)})
    return Plan(
        name=folder.resolve().name,
        question=grid.question,
        expect=grid.expect.text,
        expected=grid.expected,
        compare=[tuple(setting_name(grid.setting(each)) for each in pair) for pair in grid.compare],
        axes={axis: list(labels) for axis, labels in grid.axes.items()},
        seeds=seeds,
        metrics=grid.metrics,
        control=grid.control,
        identity="",
        sources="",
        cells=_cells(grid, seeds, records),
        steps={},
    )


def _cells(grid: Grid, seeds: Sequence[int], records: Mapping[str, Record]) -> list[Cell]:
    """All cells of the grid, at each seed; those without a record are waiting. A setting can have a metric if one of
    its records has it, or if it has no record."""
    cells = []
    for labels in {setting_name(point.labels): point.labels for point in grid.points()}.values():
        own = [record for record in records.values() if record.labels == labels]
        known = {metric for record in own for metric in record.metrics} if own else set(grid.metrics)
        for seed in seeds:
            name = run_name(labels, seed)
            metrics = {metric: name if metric in known else None for metric in grid.metrics}
            cells.append(Cell(name=name, labels=labels, seed=seed, steps=[], metrics=metrics))
    return cells
