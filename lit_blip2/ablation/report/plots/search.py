"""The objective of each trial of a search against one of its ranges."""

from matplotlib.figure import Figure

from lit_blip2.ablation.report.plots.paper import Paper, axis_name
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.schema import DONE


def search_figure(paper: Paper, sweep: Sweep, name: str) -> Figure:
    """A point for each trial; a hollow one was pruned or failed at that value."""
    search, figure = sweep.plan.search, Figure(figsize=(5.2, 3.5), layout="constrained")
    axes = figure.subplots()
    for cell in sweep.cells:
        value = sweep.value(cell, search.objective)
        if value is not None and name in cell.labels:
            face = paper.colours[0] if sweep.state(cell) == DONE else "none"
            look = dict(color=paper.colours[0], markerfacecolor=face, markersize=6, alpha=0.85)
            axes.plot(float(cell.labels[name]), value, "o", **look)
    if search.ranges[name].log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    axes.grid()
    axes.set(xlabel=name, ylabel=axis_name(search.objective))
    axes.set_title("hollow: pruned or failed, at its last value", loc="left", color=paper.faint, fontsize=8.5)
    return figure
