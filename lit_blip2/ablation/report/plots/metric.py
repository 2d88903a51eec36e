"""A metric by setting: each seed and the mean, and beside them the differences to the control."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_blip2.ablation.report.plots.paper import Paper, axis_name
from lit_blip2.ablation.report.results import MetricResult, SettingResult
from lit_blip2.ablation.report.statistics import BETTER, PERCENT, WORSE

LABEL_WIDTH = 30  # characters


def metric_figure(paper: Paper, result: MetricResult) -> Figure:
    """Settings down; each seed a dot and the mean a bar; beside it differences to the control with their intervals."""
    settings, compared = result.settings, bool(result.compared)
    figure = Figure(figsize=(7.6 if compared else 5.6, 1.15 + 0.42 * len(settings)), layout="constrained")
    panels = figure.subplots(
        1, 2 if compared else 1, sharey=True, squeeze=False, width_ratios=[1.25, 1][: 1 + compared]
    )
    left = panels[0, 0]
    for y, each in enumerate(settings):
        _seeds(left, y, each, paper)
    left.set_yticks(range(len(settings)), [_label(each) for each in settings])
    left.set_ylim(len(settings) - 0.4, -0.6)
    left.set_xlabel(axis_name(result.metric))
    left.set_title("each seed, and the mean", loc="left")
    if compared:
        _differences(panels[0, 1], settings, paper)
    for axes in panels[0]:
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
    return figure


def _label(result: SettingResult) -> str:
    """The setting, broken after commas, so that labels with many axes leave room for the plot."""
    name = result.setting + (" (control)" if result.is_control else "")
    few = f" [{result.summary.n} of {result.seeds}]" if 0 < result.summary.n < result.seeds else ""
    lines = textwrap.wrap((name + few).replace(",", ", "), LABEL_WIDTH, break_long_words=False)
    return "\n".join(lines).replace(", ", ",")


def _seeds(axes: Axes, y: int, result: SettingResult, paper: Paper) -> None:
    if not result.values:
        place = axes.get_yaxis_transform()  # x in 0..1 of the panel, y in settings
        reason = " and ".join(result.without)
        axes.text(0.02, y, reason, color=paper.faint, style="italic", fontsize=9, va="center", transform=place)
        return
    colour = paper.ink if result.is_control else paper.colours[0]
    values = [result.values[seed] for seed in sorted(result.values)]
    lift = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
    axes.scatter(values, y + lift, s=26, color=colour, alpha=0.65, linewidth=0, zorder=3)
    axes.plot([result.summary.mean] * 2, [y - 0.28, y + 0.28], color=colour, linewidth=2.2, solid_capstyle="butt")


def _differences(axes: Axes, settings: Sequence[SettingResult], paper: Paper) -> None:
    axes.axvline(0, color=paper.ink, linewidth=0.9)
    colours = {BETTER: paper.colours[0], WORSE: paper.colours[1]}
    for y, comparison in enumerate(each.comparison for each in settings):
        if comparison is None or comparison.difference is None:
            continue
        colour = colours.get(comparison.verdict, paper.faint)
        if comparison.half_width is None:  # hollow: no interval
            axes.plot(comparison.difference, y, "D", color=colour, markerfacecolor="none", markersize=5.5)
        else:
            look = dict(fmt="o", color=colour, capsize=3, markersize=5.5)
            axes.errorbar(comparison.difference, y, xerr=comparison.half_width, **look)
    limit = max(abs(edge) for edge in axes.get_xlim())
    axes.set_xlim(-limit, limit)
    axes.set_xlabel("difference to the control")
    axes.set_title(f"difference of means, family-wise {PERCENT}", loc="left")
    verdicts = [*colours.items(), ("not shown", paper.faint)]
    handles = [Line2D([], [], marker="o", color=colour, label=name, markersize=5) for name, colour in verdicts]
    axes.figure.legend(handles=handles, loc="outside lower right", ncols=3)
