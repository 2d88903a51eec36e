"""The trials of a search, best first; what was pruned or failed comes after."""

from lit_blip2.ablation.report.costs import wall
from lit_blip2.ablation.report.markdown import NONE, code, number, plain, seconds, table
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.plots.search import search_figure
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.schema import DONE, FAILED, PRUNED, Cell

ORDER = (DONE, PRUNED, FAILED)


def search_section(sweep: Sweep, plots: Plots) -> str:
    """How trials are ranked, their table, and a plot for each range."""
    search = sweep.plan.search
    word = "largest" if search.direction == "maximize" else "smallest"
    text = (
        f"Ranked by {code(search.objective)}, {word} first. A pruned trial's value is its last before it was stopped. "
        f"The trials took {seconds(sum(map(wall, sweep.records.values())))}, beside each other."
    )
    head = ["rank", "trial", "state", code(search.objective), *(code(name) for name in search.ranges), "seed", "time"]
    lines = [_line(sweep, cell, place) for place, cell in enumerate(_ranked(sweep), 1)]
    drawn = any(search.objective in record.metrics for record in sweep.records.values())
    shown = [plots.show(f"search.{name}", name, search_figure, sweep, name) for name in search.ranges if drawn]
    parts = ["## Trials", text, table(head, lines, (0, 3, len(head) - 1)), "\n".join(shown)]
    return "\n\n".join(part for part in parts if part)


def _ranked(sweep: Sweep) -> list[Cell]:
    """The trials by state, those with a value before those without, in the direction of the search."""
    search, sign = sweep.plan.search, -1 if sweep.plan.search.direction == "maximize" else 1

    def rank(cell: Cell) -> tuple[int, bool, float]:
        value = sweep.value(cell, search.objective)
        return ORDER.index(sweep.state(cell)), value is None, 0 if value is None else sign * value

    return sorted(sweep.cells, key=rank)


def _line(sweep: Sweep, cell: Cell, place: int) -> list[str]:
    search, state = sweep.plan.search, sweep.state(cell)
    value = sweep.value(cell, search.objective)
    rank = str(place) if state == DONE and value is not None else NONE
    shown = sweep.without(cell, search.objective) if value is None else number(value)
    labels = [plain(cell.labels.get(name, NONE)) for name in search.ranges]
    return [rank, code(cell.name), state, shown, *labels, str(cell.seed), seconds(wall(sweep.records[cell.name]))]
