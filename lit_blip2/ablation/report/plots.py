"""A report's plots, on light and on dark paper: a metric by setting, curves, forgetting, a search.

matplotlib without its global state. Colours are Okabe and Ito's, apart for colour-blind eyes too; the control is drawn
in the ink of the text, and lines differ in their markers as well.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_blip2.ablation.report.curves import CAPTION_LOSS, Line, Track
from lit_blip2.ablation.report.records import DONE, Cell, Search
from lit_blip2.ablation.report.results import Result, Row
from lit_blip2.ablation.report.statistics import BETTER, LEVEL, WORSE
from lit_blip2.ablation.spec.values import smaller_is_better

MOST_LINES = 8
MARKERS = "sD^vPX*<"
CONTROL = {"marker": "o", "linestyle": "--"}
LABEL_WIDTH = 30  # characters
UNITS = {"loss": "nats", "retrieval": "share", "binding": "share", "vqa": "share", "llm": "share"}


@dataclass(frozen=True)
class Paper:
    background: str
    ink: str
    faint: str
    colours: tuple[str, ...]


LIGHT = Paper(
    "#ffffff",
    "#1f2328",
    "#7d8590",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a5a1c", "#6e6e6e"),
)
DARK = Paper(
    "#14171c",
    "#e6e9ed",
    "#8b949e",
    ("#56b4e9", "#e69f00", "#2dbd8e", "#e59ac2", "#f0e442", "#ff7f50", "#9fa8ff", "#b8b8b8"),
)


def draw_png(draw, paper: Paper, *arguments) -> bytes:
    """A PNG of draw(paper, *arguments), a Figure."""
    style = {
        "figure.facecolor": paper.background,
        "axes.facecolor": paper.background,
        "savefig.facecolor": paper.background,
        "text.color": paper.ink,
        "axes.labelcolor": paper.ink,
        "axes.edgecolor": paper.faint,
        "xtick.color": paper.ink,
        "ytick.color": paper.ink,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "axes.labelsize": 9.5,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": paper.faint,
        "grid.alpha": 0.25,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = draw(paper, *arguments)
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=144)
    return file.getvalue()


def metric_figure(paper: Paper, result: Result) -> Figure:
    """Settings down; each seed a dot and the mean a bar; beside it differences to the control with their intervals."""
    rows = result.rows
    compared = any(row.comparison for row in rows)
    figure = Figure(figsize=(7.6 if compared else 5.6, 1.15 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(
        1, 2 if compared else 1, sharey=True, squeeze=False, width_ratios=[1.25, 1][: 1 + compared]
    )
    left = panels[0, 0]
    for y, row in enumerate(rows):
        _seeds(left, y, row, paper)
    left.set_yticks(range(len(rows)), [_setting_label(row) for row in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlabel(axis_name(result.metric))
    left.set_title("each seed, and the mean", loc="left")
    if compared:
        _differences(panels[0, 1], rows, paper)
    for axes in panels[0]:
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
    return figure


def axis_name(metric: str) -> str:
    unit = UNITS.get(metric.split("/")[0])
    return metric + (f", {unit}" if unit else "") + (" (smaller is better)" if smaller_is_better(metric) else "")


def _setting_label(row: Row) -> str:
    name = row.setting + (" (control)" if row.is_control else "")
    few = f" [{row.summary.n} of {row.seeds}]" if 0 < row.summary.n < row.seeds else ""
    return _wrapped(name + few)


def _wrapped(name: str) -> str:
    """Broken after commas, so that labels with many axes leave room for the plot."""
    spaced = textwrap.wrap(name.replace(",", ", "), LABEL_WIDTH, break_long_words=False)
    return "\n".join(spaced).replace(", ", ",")


def _seeds(axes: Axes, y: int, row: Row, paper: Paper) -> None:
    if not row.values:
        reason = " and ".join(row.without)
        axes.text(0.02, y, reason, color=paper.faint, style="italic", fontsize=9, va="center", transform=_in_rows(axes))
        return
    colour = paper.ink if row.is_control else paper.colours[0]
    seeds = sorted(row.values)
    lift = np.linspace(-0.16, 0.16, len(seeds)) if len(seeds) > 1 else [0.0]
    axes.scatter(
        [row.values[seed] for seed in seeds],
        y + np.asarray(lift),
        s=26,
        color=colour,
        alpha=0.65,
        linewidth=0,
        zorder=3,
    )
    axes.plot([row.summary.mean] * 2, [y - 0.28, y + 0.28], color=colour, linewidth=2.2, solid_capstyle="butt")


def _in_rows(axes: Axes):
    """x in 0..1 of the panel, y in settings."""
    return axes.get_yaxis_transform()


def _differences(axes: Axes, rows: Sequence[Row], paper: Paper) -> None:
    axes.axvline(0, color=paper.ink, linewidth=0.9)
    colours = {BETTER: paper.colours[0], WORSE: paper.colours[1]}
    for y, row in enumerate(rows):
        found = row.comparison
        if found is None or found.difference is None:
            continue
        colour = colours.get(found.verdict, paper.faint)
        if found.half_width is None:  # hollow: no interval
            axes.plot(found.difference, y, "D", color=colour, markerfacecolor="none", markersize=5.5)
        else:
            axes.errorbar(found.difference, y, xerr=found.half_width, fmt="o", color=colour, capsize=3, markersize=5.5)
    limit = max(abs(edge) for edge in axes.get_xlim())
    axes.set_xlim(-limit, limit)
    axes.set_xlabel("difference to the control")
    axes.set_title(f"paired difference, family-wise {100 * LEVEL:g} %", loc="left")
    kinds = [(BETTER, colours[BETTER]), (WORSE, colours[WORSE]), ("not shown", paper.faint)]
    handles = [Line2D([], [], marker="o", color=colour, label=name, markersize=5) for name, colour in kinds]
    axes.figure.legend(handles=handles, loc="outside lower right", ncols=3)


def curve_figure(paper: Paper, lines: Sequence[Line], metric: str, control: str | None) -> Figure:
    """Mean over seeds against step, a band of one standard deviation to either side."""
    figure, axes = _panel(lines)
    for line, colour, look in _styled(lines, paper, control):
        steps, mean = np.array(line.steps), np.array(line.mean)
        few = len(steps) <= 25
        axes.plot(steps, mean, color=colour, markersize=4.5, linewidth=1.6, **look if few else look | {"marker": None})
        spread = np.array([np.nan if sd is None else sd for sd in line.sd])
        if len(lines) <= MOST_LINES:
            axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.16, linewidth=0)
    axes.set(xlabel="optimiser step", ylabel=axis_name(metric))
    _legend(figure, lines, paper, control, "band: one sd over seeds")
    return figure


def forgetting_figure(paper: Paper, tracks: Sequence[Track], metric: str, control: str | None) -> Figure:
    """The metric against the caption loss, which falls to the right; the last validation is the large marker."""
    figure, axes = _panel(tracks)
    for track, colour, look in _styled(tracks, paper, control):
        axes.plot(track.loss, track.metric, color=colour, markersize=3, linewidth=1.4, **look)
        if len(tracks) <= MOST_LINES:
            low, high = ([value + sign * (sd or 0.0) for value, sd in zip(track.metric, track.sd)] for sign in (-1, 1))
            axes.fill_between(track.loss, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(track.loss[-1], track.metric[-1], color=colour, markersize=8, **look)
    axes.invert_xaxis()
    axes.set(xlabel=f"{CAPTION_LOSS}, nats, falling to the right", ylabel=axis_name(metric))
    _legend(figure, tracks, paper, control, "large: the last validation; band: one sd over seeds")
    return figure


def search_figure(paper: Paper, cells: Sequence[Cell], search: Search, name: str) -> Figure:
    """The objective of each trial against one range. Hollow: pruned or failed at that value."""
    figure = Figure(figsize=(5.2, 3.5), layout="constrained")
    axes = figure.subplots()
    for cell in cells:
        value, place = cell.metrics.get(search.objective), _float(cell.labels.get(name))
        if value is not None and place is not None:
            face = paper.colours[0] if cell.state == DONE else "none"
            axes.plot(place, value, "o", color=paper.colours[0], markerfacecolor=face, markersize=6, alpha=0.85)
    if isinstance(search.ranges[name], dict) and search.ranges[name].get("log"):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    axes.grid()
    axes.set(xlabel=name, ylabel=axis_name(search.objective))
    axes.set_title("hollow: pruned or failed, at its last value", loc="left", color=paper.faint, fontsize=8.5)
    return figure


def _float(text: str | None) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _panel(lines: Sequence[Line | Track]) -> tuple[Figure, Axes]:
    shown = min(len(lines), MOST_LINES)
    figure = Figure(figsize=(5.2, 3.3 + 0.2 * shown), layout="constrained")
    axes = figure.subplots()
    axes.grid()
    return figure, axes


def _key(line: Line | Track, many: bool) -> str:
    return line.first if many else line.name


def _styled(lines: Sequence[Line | Track], paper: Paper, control: str | None):
    """(line, colour, look), the control last, so that it lies on top, dashed.

    More lines than colours are coloured by the label of the first axis.
    """
    many = len(lines) > MOST_LINES
    styles = _styles(lines, paper, control)
    return [(line, *styles[_key(line, many)]) for line in sorted(lines, key=lambda line: line.name == control)]


def _styles(lines: Sequence[Line | Track], paper: Paper, control: str | None) -> dict[str, tuple[str, dict[str, str]]]:
    many = len(lines) > MOST_LINES
    keys = list(dict.fromkeys(_key(line, many) for line in lines))
    others = [key for key in keys if key != control]
    styles = {
        key: (paper.colours[i % len(paper.colours)], {"marker": MARKERS[i % len(MARKERS)]})
        for i, key in enumerate(others)
    }
    return {key: styles.get(key, (paper.ink, CONTROL)) for key in keys}


def _legend(figure: Figure, lines: Sequence[Line | Track], paper: Paper, control: str | None, title: str) -> None:
    handles = [
        Line2D([], [], color=colour, **look, markersize=4.5, label=name + (" (control)" if name == control else ""))
        for name, (colour, look) in _styles(lines, paper, control).items()
    ]
    title = "coloured by the first axis; each line is one setting" if len(lines) > MOST_LINES else title
    legend = figure.legend(handles=handles, loc="outside lower left", title=title, alignment="left")
    legend.get_title().set(color=paper.faint, fontsize=8.5)
