"""Curves of validation metrics, and of a metric against the caption loss. Lines differ in their markers as well."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_blip2.ablation.report.curves import CAPTION_LOSS, Curve, Track
from lit_blip2.ablation.report.plots.paper import Paper, axis_name

MOST_LINES = 8  # more are coloured by the label of the first axis
MOST_MARKED = 25  # steps
BLIND_NAME = "without the image"
MARKERS = "sD^vPX*<"
CONTROL = {"marker": "o", "linestyle": "--"}
Look = dict[str, str]


def curve_figure(
    paper: Paper, curves: Sequence[Curve], metric: str, control: str | None, blind: float | None = None
) -> Figure:
    """Mean over seeds against step, a band of one standard deviation to either side. blind: the metric without the
    image."""
    figure, axes = _panel(curves)
    _baseline(axes, paper, blind)
    for curve, colour, look in _styled(curves, paper, control):
        marked = look if len(curve.steps) <= MOST_MARKED else look | {"marker": None}
        axes.plot(curve.steps, curve.mean, color=colour, markersize=4.5, linewidth=1.6, **marked)
        if len(curves) <= MOST_LINES:
            _band(axes, curve.steps, curve.mean, curve.sd, colour, np.nan)
    axes.set(xlabel="optimiser step", ylabel=axis_name(metric))
    _legend(figure, curves, paper, control, "band: one sd over seeds")
    return figure


def forgetting_figure(
    paper: Paper, tracks: Sequence[Track], metric: str, control: str | None, blind: float | None = None
) -> Figure:
    """The metric against the caption loss, which falls to the right; the last validation is the large marker. blind:
    the metric without the image."""
    figure, axes = _panel(tracks)
    _baseline(axes, paper, blind)
    for track, colour, look in _styled(tracks, paper, control):
        axes.plot(track.loss, track.metric, color=colour, markersize=3, linewidth=1.4, **look)
        if len(tracks) <= MOST_LINES:
            _band(axes, track.loss, track.metric, track.sd, colour, 0.0)
        axes.plot(track.loss[-1], track.metric[-1], color=colour, markersize=8, **look)
    axes.invert_xaxis()
    axes.set(xlabel=f"{CAPTION_LOSS}, nats, falling to the right", ylabel=axis_name(metric))
    _legend(figure, tracks, paper, control, "large: the last validation; band: one sd over seeds")
    return figure


def _baseline(axes: Axes, paper: Paper, blind: float | None) -> None:
    if blind is not None:
        axes.axhline(blind, color=paper.faint, linestyle=":", linewidth=1.2)
        axes.annotate(BLIND_NAME, (1, blind), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8,
                      color=paper.faint)  # fmt: skip


def _band(axes: Axes, x: Sequence[float], mean: Sequence[float], sd: Sequence[float | None], colour: str, none: float):
    """One standard deviation to either side; `none` where it is not known."""
    spread = np.array([none if each is None else each for each in sd])
    axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.16, linewidth=0)


def _panel(lines: Sequence[Curve | Track]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.3 + 0.2 * min(len(lines), MOST_LINES)), layout="constrained")
    axes = figure.subplots()
    axes.grid()
    return figure, axes


def _key(line: Curve | Track, many: bool) -> str:
    return line.first if many else line.name


def _styled(
    lines: Sequence[Curve | Track], paper: Paper, control: str | None
) -> Iterator[tuple[Curve | Track, str, Look]]:
    """(line, colour, look), the control last, so that it lies on top, dashed."""
    styles = _styles(lines, paper, control)
    for line in sorted(lines, key=lambda line: line.name == control):
        yield line, *styles[_key(line, len(lines) > MOST_LINES)]


def _styles(lines: Sequence[Curve | Track], paper: Paper, control: str | None) -> dict[str, tuple[str, Look]]:
    """Colour and look of each line, or of each label of the first axis."""
    keys = list(dict.fromkeys(_key(line, len(lines) > MOST_LINES) for line in lines))
    others = [key for key in keys if key != control]
    styles = {
        key: (paper.colours[i % len(paper.colours)], {"marker": MARKERS[i % len(MARKERS)]})
        for i, key in enumerate(others)
    }
    return {key: styles.get(key, (paper.ink, CONTROL)) for key in keys}


def _legend(figure: Figure, lines: Sequence[Curve | Track], paper: Paper, control: str | None, title: str) -> None:
    handles = [
        Line2D([], [], color=colour, **look, markersize=4.5, label=name + (" (control)" if name == control else ""))
        for name, (colour, look) in _styles(lines, paper, control).items()
    ]
    title = "coloured by the first axis; each line is one setting" if len(lines) > MOST_LINES else title
    legend = figure.legend(handles=handles, loc="outside lower left", title=title, alignment="left")
    legend.get_title().set(color=paper.faint, fontsize=8.5)
