"""Metrics by setting: each seed, the mean and the standard deviation. The overview has all metrics side by side; a
metric's own plot also has the differences to the control."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_blip2.ablation.report.baselines import Baseline
from lit_blip2.ablation.report.plots.looks import Look
from lit_blip2.ablation.report.plots.paper import Paper, axis_name
from lit_blip2.ablation.report.plots.reference import handles, line_look, near
from lit_blip2.ablation.report.results import MetricResult, SettingResult
from lit_blip2.ablation.report.statistics import BETTER, PERCENT, WORSE

LABEL_WIDTH = 30  # characters
MOST_BESIDE = 5  # panels in a row
Looks = Mapping[str, Look]  # by setting
Drawn = tuple[MetricResult, Sequence[Baseline]]


def overview_figure(paper: Paper, drawn: Sequence[Drawn], looks: Looks) -> Figure:
    """A small panel for each metric, with a row for each setting."""
    settings = drawn[0][0].settings
    rows = math.ceil(len(drawn) / MOST_BESIDE)
    columns = math.ceil(len(drawn) / rows)
    figure = Figure(figsize=(min(11.0, 4.2 + 2.2 * columns), rows * (0.6 + 0.27 * len(settings)) + 0.2))
    figure.set_layout_engine("constrained")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    shown = {}
    for axes, (result, baselines) in zip(panels, drawn):
        lines = _settings(axes, paper, result, looks, baselines, size=3.4)
        shown |= {handle.get_label().partition(":")[0]: handle for handle in handles(paper, lines, lines)}
        axes.set_title(axis_name(result.metric), loc="left", fontsize=8.5)
        axes.tick_params(axis="x", labelsize=8)
        axes.locator_params(axis="x", nbins=4)
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    if shown:
        figure.legend(shown.values(), shown.keys(), loc="outside lower right", ncols=len(shown))
    return figure


def metric_figure(paper: Paper, result: MetricResult, looks: Looks, baselines: Sequence[Baseline]) -> Figure:
    """A row for each setting; beside it the differences to the control with their intervals."""
    settings, compared = result.settings, bool(result.compared)
    size = (9.6 if compared else 6.0, 1.2 + 0.42 * len(settings) + 0.2 * bool(baselines))
    figure = Figure(figsize=size, layout="constrained")
    ratios = [1.25, 1][: 1 + compared]
    left, *right = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0]
    lines = _settings(left, paper, result, looks, baselines, size=5.5)
    left.set_xlabel(axis_name(result.metric))
    left.set_title("each seed; mean and standard deviation", loc="left")
    left.locator_params(axis="x", nbins=5)
    for axes in right:
        _differences(axes, settings, paper, looks)
    if baselines:
        figure.legend(handles=handles(paper, baselines, lines), loc="outside lower left", ncols=len(baselines))
    return figure


def _settings(
    axes: Axes, paper: Paper, result: MetricResult, looks: Looks, baselines: Sequence[Baseline], size: float
) -> list[Baseline]:
    """Draw all settings and the baselines that are near; returns these. size: of the mean's marker, in points."""
    settings = result.settings
    for y, each in enumerate(settings):
        _setting(axes, y, each, paper, looks[each.setting], size)
    axes.set_yticks(range(len(settings)), [_label(each) for each in settings])
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    values = [value for each in settings for value in each.values.values()]
    lines = near(baselines, values) if values else []
    for line in lines:
        _baseline(axes, paper, line, [each.setting for each in settings])
    return lines


def _baseline(axes: Axes, paper: Paper, baseline: Baseline, settings: Sequence[str]) -> None:
    """Draw a line from top to bottom; if settings differ in the baseline, a piece for each setting that has it."""
    look = line_look(paper, baseline)
    if baseline.is_one:
        axes.axvline(next(iter(baseline.values.values())), **look)
        return
    for y, value in enumerate(map(baseline.values.get, settings)):
        if value is not None:
            axes.plot([value] * 2, [y - 0.5, y + 0.5], **look)


def _label(result: SettingResult) -> str:
    """The setting, broken after commas, so that labels with many axes leave room for the plot."""
    name = result.setting + (" (control)" if result.is_control else "")
    few = f" [{result.summary.n} of {result.seeds}]" if 0 < result.summary.n < result.seeds else ""
    lines = textwrap.wrap((name + few).replace(",", ", "), LABEL_WIDTH, break_long_words=False)
    return "\n".join(lines).replace(", ", ",")


def _setting(axes: Axes, y: int, result: SettingResult, paper: Paper, look: Look, size: float) -> None:
    """Draw the seeds as small dots, and above them the mean with one standard deviation to either side."""
    if not result.values:
        place = axes.get_yaxis_transform()  # x in 0..1 of the panel, y in settings
        reason = " and ".join(result.without)
        axes.text(0.02, y, reason, color=paper.faint, style="italic", fontsize=8.5, va="center", transform=place)
        return
    colour, mean, sd = paper.colour(look), result.summary.mean, result.summary.sd
    dots = dict(color=colour, markersize=0.7 * size, alpha=0.5, markeredgewidth=0)
    axes.plot(list(result.values.values()), [y + 0.18] * len(result.values), "o", **dots)
    marked = dict(color=colour, marker=look.marker, markersize=size, linewidth=1.8, capsize=0.6 * size, zorder=4)
    axes.errorbar(mean, y - 0.12, xerr=sd, **marked)


def _differences(axes: Axes, settings: Sequence[SettingResult], paper: Paper, looks: Looks) -> None:
    """Draw the differences to the control: filled if one is shown, else hollow. The verdict is at the right."""
    axes.axvline(0, color=paper.ink, linewidth=0.9)
    for y, each in enumerate(settings):
        if each.comparison is None:
            continue
        shown, look = each.comparison.verdict in (BETTER, WORSE), looks[each.setting]
        told = dict(color=paper.ink, fontweight="bold") if shown else dict(color=paper.faint)
        place = axes.get_yaxis_transform()
        axes.text(1.02, y, each.comparison.verdict, **told, fontsize=8.5, va="center", transform=place)
        if each.comparison.difference is not None:
            colour = paper.colour(look)
            face = colour if shown else paper.background
            marked = dict(color=colour, marker=look.marker, markersize=6, markerfacecolor=face, capsize=3)
            axes.errorbar(each.comparison.difference, y, xerr=each.comparison.half_width, **marked)
    limit = max(abs(edge) for edge in axes.get_xlim())
    axes.set_xlim(-limit, limit)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel("difference to the control")
    axes.set_title(f"difference of means, family-wise {PERCENT}", loc="left")
