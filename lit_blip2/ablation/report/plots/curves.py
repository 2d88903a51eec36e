"""Curves of validation metrics, and of a metric against the caption loss, with a band over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_blip2.ablation.report.baselines import Baseline
from lit_blip2.ablation.report.curves import CAPTION_LOSS, Curve, Track
from lit_blip2.ablation.report.plots.looks import MOST, Look
from lit_blip2.ablation.report.plots.paper import Paper, axis_name
from lit_blip2.ablation.report.plots.reference import handles, line_look, near

MOST_LINES = MOST + 1  # more lines are coloured by the label of the first axis, and have no bands
MOST_MARKED = 25  # most steps of a curve whose points are marked
BAND = "band: one standard deviation over seeds"
Looks = Mapping[str, Look]  # by setting


def curve_figure(
    paper: Paper, curves: Sequence[Curve], metric: str, looks: Looks, baselines: Sequence[Baseline]
) -> Figure:
    """Mean over seeds against step."""
    figure, (axes,) = _panels(1, len(curves) + len(baselines))
    _against_steps(axes, paper, curves, looks)
    axes.set_ylabel(axis_name(metric))
    _legend(figure, paper, curves, looks, baselines, _baselines(axes, paper, curves, looks, baselines))
    return figure


def forgetting_figure(
    paper: Paper,
    curves: Sequence[Curve],
    tracks: Sequence[Track],
    metric: str,
    looks: Looks,
    baselines: Sequence[Baseline],
) -> Figure:
    """The metric against the step, and beside it against the caption loss, which falls to the right. A large marker is
    the last validation."""
    figure, (left, right) = _panels(2, len(curves) + len(baselines))
    _against_steps(left, paper, curves, looks)
    for track in _control_last(tracks, looks):
        look = _look(paper, looks[track.setting])
        right.plot(track.loss, track.metric, **look, markersize=3.5, linewidth=1.4)
        right.plot(track.loss[-1], track.metric[-1], **look, markersize=9)
        if len(tracks) <= MOST_LINES:
            _band(right, track.loss, track.metric, track.sd, look["color"])
    right.invert_xaxis()
    right.set_xlabel(f"{CAPTION_LOSS}, nats, falling to the right; large: the last validation")
    left.set_ylabel(axis_name(metric))
    drawn = [_baselines(axes, paper, curves, looks, baselines) for axes in (left, right)]
    _legend(figure, paper, curves, looks, baselines, drawn[0])
    return figure


def _panels(columns: int, lines: int) -> tuple[Figure, Sequence[Axes]]:
    size = (5.4 if columns == 1 else 10.4, 3.5 + 0.2 * min(lines, MOST_LINES) / columns)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axes in panels:
        axes.grid()
    return figure, panels


def _against_steps(axes: Axes, paper: Paper, curves: Sequence[Curve], looks: Looks) -> None:
    for curve in _control_last(curves, looks):
        look = _look(paper, looks[curve.setting])
        marked = look if len(curve.steps) <= MOST_MARKED else look | {"marker": None}
        axes.plot(curve.steps, curve.mean, **marked, markersize=4.5, linewidth=1.6)
        if len(curves) <= MOST_LINES:
            _band(axes, curve.steps, curve.mean, curve.sd, look["color"])
    axes.set_xlabel("optimiser step")


def _band(axes: Axes, x: Sequence[float], mean: Sequence[float], sd: Sequence[float | None], colour: str) -> None:
    """Draw one standard deviation to either side, where it is known."""
    spread = np.array([np.nan if each is None else each for each in sd])
    axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.16, linewidth=0)


def _baselines(
    axes: Axes, paper: Paper, curves: Sequence[Curve], looks: Looks, baselines: Sequence[Baseline]
) -> list[Baseline]:
    """Draw the baselines that are near, and return them. If settings differ in one, each setting has a line in its own
    colour."""
    data = [mean + side * (sd or 0) for curve in curves for mean, sd in zip(curve.mean, curve.sd) for side in (-1, 1)]
    drawn = near(baselines, data)
    for line in drawn:
        of = {line.values[each.setting]: looks[each.setting] for each in curves if each.setting in line.values}
        for value, look in list(of.items())[: 1 if line.is_one else None]:
            own = {} if line.is_one else {"color": paper.colour(look)}
            axes.axhline(value, **line_look(paper, line) | own)
    return drawn


def _control_last(lines: Sequence[Curve] | Sequence[Track], looks: Looks) -> list:
    """The lines in drawing order, so that the control lies on top."""
    return sorted(lines, key=lambda line: looks[line.setting].colour is None)


def _look(paper: Paper, look: Look) -> dict[str, str]:
    """A look as arguments for matplotlib; the control is dashed."""
    return {"color": paper.colour(look), "marker": look.marker, "linestyle": "--" if look.colour is None else "-"}


def _legend(
    figure: Figure,
    paper: Paper,
    curves: Sequence[Curve],
    looks: Looks,
    baselines: Sequence[Baseline],
    drawn: Sequence[Baseline],
) -> None:
    many = len(curves) > MOST_LINES
    named = {}
    for curve in curves:
        look = looks[curve.setting]
        is_control = look.colour is None and curve.name == curve.setting
        named[look.of if many else curve.name + (" (control)" if is_control else "")] = _look(paper, look)
    lines = [Line2D([], [], **look, markersize=4.5, label=name) for name, look in named.items()]
    title = "coloured by the first axis; each line is one setting" if many else BAND
    lines += handles(paper, baselines, drawn)
    columns = 1 if len(figure.axes) == 1 else 2
    legend = figure.legend(handles=lines, loc="outside lower left", title=title, alignment="left", ncols=columns)
    legend.get_title().set(color=paper.faint, fontsize=8.5)
