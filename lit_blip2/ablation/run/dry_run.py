"""What a sweep would run: every setting with its steps, and how long that takes, before anything starts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.table import Table

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run.begin import plan_or_space
from lit_blip2.ablation.run.beside import look as look_beside
from lit_blip2.ablation.run.estimate import Size, folders_of, known_seconds, seconds_of
from lit_blip2.ablation.run.taken import Kept, look, told
from lit_blip2.ablation.schema import Plan, StepRun
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.terminal import duration


class DryRun(NamedTuple):
    """What a sweep would run. lines: what stands below the table. starts: whether nothing is missing that the sweep
    does not make itself."""

    table: Table
    lines: list[str]
    starts: bool


def dry_run(grid: Grid, folder: Folder, kept: Folder | None = None, workers: int = 1) -> DryRun:
    """folder: where the sweep would run. kept: where records of cells may lie that need not be run.

    Raises ValueError with every cell that cannot be run. Data and weights need not be there yet: what the steps would
    miss is told. Language models must be, which a network is built by."""
    missing: list[str] = []
    try:
        plan = plan_or_space(grid, False, missing)[0]
        there: set[str] = {name for name in plan.steps if folder.done(name).exists()}
        taken: list[str] = []
        if not (grid.ranges or missing):
            same, taken = look_beside(plan, folder)
            found = look(plan, kept) if kept else Kept({}, {}, {})
            taken = taken + (told(plan, kept, found) if kept else [])
            there |= {*same, *(name for runs in found.runs.values() for name in runs)}
        left = [run for name, run in plan.steps.items() if name not in there]
        how_long = [] if grid.ranges else [time_of(left, known_seconds(folders_of(folder, kept)), workers)]
        lines = _lines(grid, plan, missing, [*taken, *how_long])
        return DryRun(_table(grid, plan), lines, not missing or bool(grid.prepare))
    except ValueError as error:
        if not grid.prepare:
            raise
        begins = "".join(f"\n  python -m lit_blip2 {line}" for line in grid.prepare)
        raise ValueError(f"{error}\nA sweep first runs these commands, which a dry run does not:{begins}") from error


def time_of(runs: Sequence[StepRun], known: Mapping[Size, float], workers: int) -> str:
    """A line that says how long these steps would take."""
    seconds, unknown = seconds_of(runs, known)
    if unknown:
        return f"time: not known, no {unknown} of this size has been run here"
    each = f" on {workers} workers" if workers > 1 else ""
    return f"time: about {duration(seconds / workers)}{each}, by what steps of this size have taken"


def _lines(grid: Grid, plan: Plan, missing: list[str], said: Sequence[str]) -> list[str]:
    """What is run before all, what need not be run, how long the rest takes, and what is missing."""
    lines = [f"left out: {line}" for line in plan.left_out[len(grid.left_out) :]]
    if grid.prepare:
        lines += ["first, if not done:", *(f"  python -m lit_blip2 {line}" for line in grid.prepare)]
    lines += said
    if missing:
        unless = "the commands above make" if grid.prepare else "you provide"
        lines += [f"NOT THERE, and the sweep stops before its first step unless {unless} it:"]
        lines += [f"  {line}" for line in missing]
    return lines


def _table(grid: Grid, plan: Plan) -> Table:
    """A line for each setting with its steps, seeds folded; how many settings share a run stands behind it."""
    total = sum(len(cell.steps) for cell in plan.cells)
    title = f"{grid.name}: {len(plan.cells)} cells, {total} steps, of which {len(plan.steps)} are run"
    table = Table(title=title)
    for head in ("setting", "seeds", "steps (x settings that share one)", "cannot have"):
        table.add_column(head, overflow="fold")
    uses = settings_of_runs(plan)
    for setting, cells in groupby(plan.cells, key=lambda cell: cell.setting):
        first, *others = cells
        steps = [f"{plan.steps[name].step} x{n}" if (n := uses[name]) > 1 else plan.steps[name].step
                 for name in first.steps]  # fmt: skip
        lacking = [metric for metric, step in first.metrics.items() if step is None]
        seeds = ", ".join(str(cell.seed) for cell in (first, *others))
        table.add_row(setting, seeds, ", ".join(steps), ", ".join(lacking))
    return table


def settings_of_runs(plan: Plan) -> dict[str, int]:
    """Step run -> number of settings that use it."""
    users = {(name, cell.setting) for cell in plan.cells for name in cell.steps}
    return Counter(name for name, _ in users)
