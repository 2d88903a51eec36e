"""What a sweep would run: every cell with its steps, before anything starts."""

from collections.abc import Sequence

from rich.table import Table

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run.begin import plan_or_space
from lit_blip2.ablation.run.beside import look as look_beside
from lit_blip2.ablation.run.taken import look, told
from lit_blip2.ablation.schema import Plan
from lit_blip2.ablation.spec.grid import Grid


def dry_run(grid: Grid, folder: Folder, kept: Folder | None = None) -> Table:
    """folder: where the sweep would run. kept: where records of cells may lie that need not be run.

    Raises ValueError with every cell that cannot be run. The data need not be there yet, and what the steps would
    miss of them is told; models that the cells name must be."""
    missing: list[str] = []
    try:
        plan = plan_or_space(grid, False, missing)[0]
        taken = [] if grid.ranges or missing else look_beside(plan, folder)[1]
        taken += told(plan, kept, look(plan, kept)) if kept and not (grid.ranges or missing) else []
        return plan_table(grid, plan, missing, taken)
    except ValueError as error:
        if not grid.prepare:
            raise
        begins = "".join(f"\n  python -m lit_blip2 {line}" for line in grid.prepare)
        raise ValueError(f"{error}\nA sweep first runs these commands, which a dry run does not:{begins}") from error


def plan_table(grid: Grid, plan: Plan, missing: list[str], taken: Sequence[str] = ()) -> Table:
    """Every cell with its step runs; how many cells share a run stands behind it, what is run before all below, what
    is missing, and which cells need not be run."""
    uses = plan.uses()
    total = sum(len(cell.steps) for cell in plan.cells)
    title = f"{grid.name}: {len(plan.cells)} cells, {total} steps, of which {len(plan.steps)} are run"
    table = Table(title=title, caption_justify="left")
    said = [f"left out: {line}" for line in plan.left_out[len(grid.left_out) :]]
    if grid.prepare:
        said += ["first, if not done: " + "; ".join(f"python -m lit_blip2 {line}" for line in grid.prepare)]
    said += taken
    if missing:
        unless = "the commands above make" if grid.prepare else "you provide"
        said += [f"NOT THERE, and the sweep stops before its first step unless {unless} it:", *missing]
    table.caption = "\n".join(said) or None
    for head in ("cell", "steps (x cells that share one)", "cannot have"):
        table.add_column(head, overflow="fold")
    for cell in plan.cells:
        steps = [f"{name} x{uses[name]}" if uses[name] > 1 else name for name in cell.steps]
        lacking = [metric for metric, step in cell.metrics.items() if step is None]
        table.add_row(cell.name, "\n".join(steps), "\n".join(lacking))
    return table
