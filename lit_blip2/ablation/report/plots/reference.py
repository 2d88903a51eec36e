"""Baselines as lines: each kind has its own dashes, in a colour that no setting has."""

from collections.abc import Iterable, Sequence

from matplotlib.lines import Line2D

from lit_blip2.ablation.report.baselines import CHANCE, NO_IMAGE, TEXT_ALONE, Baseline
from lit_blip2.ablation.report.markdown import number
from lit_blip2.ablation.report.plots.paper import Paper

DASHES = {NO_IMAGE: ":", TEXT_ALONE: "-.", CHANCE: "--"}
LEAST = 0.45  # the data count as at least so wide, as a share of their largest value


def near(baselines: Sequence[Baseline], data: Iterable[float]) -> list[Baseline]:
    """The baselines no farther from the data than the data are wide. A line farther off would squeeze the data."""
    data = list(data)
    reach = max(max(data) - min(data), LEAST * max(map(abs, data)))
    low, high = min(data) - reach, max(data) + reach
    return [each for each in baselines if all(low <= value <= high for value in each.values.values())]


def line_look(paper: Paper, baseline: Baseline) -> dict:
    """A baseline's look as arguments for matplotlib."""
    return {"color": paper.faint, "linestyle": DASHES[baseline.name], "linewidth": 1.3}


def handles(paper: Paper, baselines: Sequence[Baseline], drawn: Sequence[Baseline]) -> list[Line2D]:
    """Entries for a legend, with the baselines' values. A baseline that is not drawn has only its text."""
    return [
        Line2D([], [], **line_look(paper, each), label=_label(each, each in drawn), visible=each in drawn)
        for each in baselines
    ]


def _label(baseline: Baseline, is_drawn: bool) -> str:
    ends = list(dict.fromkeys(number(end(baseline.values.values())) for end in (min, max)))
    return f"{baseline.name}: {' to '.join(ends)}" + ("" if is_drawn else " (outside)")
