"""Seconds, steps and memory of each cell; what sharing saved."""

from lit_blip2.ablation.report.costs import cell_cost, sweep_cost
from lit_blip2.ablation.report.markdown import NONE, code, number, seconds, table
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.schema import Cell

HEAD = ["cell", "state", "alone", "of it shared", "training steps", "peak process memory, GiB"]


def costs_section(sweep: Sweep) -> str:
    """What was spent, then a line for each cell."""
    if not sweep.done:
        return "## Cost\n\nNo step has ended yet."
    cost = sweep_cost(sweep)
    share = f" ({100 * cost.not_spent / cost.without_sharing:.0f} %)" if cost.without_sharing else ""
    text = (
        f"**Spent:** {seconds(cost.spent)}, each step counted once. **Without sharing:** "
        f"{seconds(cost.without_sharing)}. **Time not spent:** {seconds(cost.not_spent)}{share}. "
        'A step that several cells use is charged in full to each of them under "alone". Seconds are those of the '
        "steps' processes, which ran beside each other."
    )
    if cost.repeated:
        text += (
            f" Steps started more than once: {cost.repeated}; what a killed worker had spent on them is not counted."
        )
    return f"## Cost\n\n{text}\n\n{table(HEAD, [_line(sweep, cell) for cell in sweep.cells], range(2, 6))}"


def _line(sweep: Sweep, cell: Cell) -> list[str]:
    cost = cell_cost(sweep, cell)
    part = f" ({cost.ended} of {cost.planned} steps)" if 0 < cost.ended < cost.planned else ""
    steps = f"{cost.steps:,}" if cost.steps is not None else NONE
    spent = [seconds(cost.seconds) + part, seconds(cost.shared_seconds), steps, number(cost.peak_memory_gib)]
    return [code(cell.name), sweep.state(cell), *spent]
