"""Learning curves of the steps that validate; and whether accuracy falls while the caption loss still improves."""

from lit_blip2.ablation.report.baselines import baselines
from lit_blip2.ablation.report.curves import (
    CAPTION_LOSS,
    Change,
    Curve,
    Track,
    changes,
    curve_metrics,
    curves,
    tracks,
    validating_steps,
)
from lit_blip2.ablation.report.markdown import code, number, span, table
from lit_blip2.ablation.report.plots.curves import curve_figure, forgetting_figure
from lit_blip2.ablation.report.plots.looks import looks
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.statistics import PERCENT

FORGETTING = (
    "## Forgetting\n\nDoes accuracy fall while the caption loss still improves? Each line is one setting: to the left "
    "against the step, to the right against the caption loss, with one standard deviation over seeds. "
)
CHANGES = (
    "The tables hold the last validation less the one at half of the steps: both are of one training, so that the "
    f"difference is taken run by run (Student's t). Intervals hold together at {PERCENT} over the table."
)
NO_CHANGES = "Nothing was validated three times: there is no table of what the second half of training changed."


def curves_section(sweep: Sweep, plots: Plots) -> str:
    """For each step, a plot for each metric that is not drawn below against the caption loss. Empty if nothing was
    validated."""
    parts = []
    for step in validating_steps(sweep):
        drawn = {metric: curves(sweep, step, metric) for metric in curve_metrics(sweep, step)}
        drawn = {metric: each for metric, each in drawn.items() if any(len(curve.steps) > 1 for curve in each)}
        below = _against_loss(sweep, step)
        shown = [
            plots.show(f"curve.{step}.{metric}", f"{metric}, {step}", curve_figure, *told)
            for metric, each in drawn.items()
            if metric not in below
            for told in [(each, metric, looks(sweep), baselines(sweep, metric))]
        ]
        said = _said([curve.seeds for each in drawn.values() for curve in each])
        said += f" Under Forgetting: {', '.join(map(code, below))}." if below else ""
        parts += [f"### {code(step)}", said, *(["\n".join(shown)] if shown else [])]
    return "\n\n".join(["## Learning curves", *parts]) if parts else ""


def _said(seeds: list[int]) -> str:
    """A sentence on the curves of a step. seeds: number of seeds of each curve; empty if there is no curve."""
    if not seeds:
        return "Validated once only: there is no curve."
    n = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    return f"Validation metrics: means over n = {n} seeds, with a band of one standard deviation where n > 1."


def forgetting_section(sweep: Sweep, plots: Plots) -> str:
    """A plot and a table for each metric that is validated beside the caption loss; empty if none is."""
    shown, tables = [], []
    for step in validating_steps(sweep):
        for metric, drawn in _against_loss(sweep, step).items():
            name, alt = f"forgetting.{step}.{metric}", f"{metric}, {step}"
            told = (*drawn, metric, looks(sweep), baselines(sweep, metric))
            shown.append(plots.show(name, alt, forgetting_figure, *told))
            tables.append(_changes_table(changes(sweep, step, metric), step, metric))
    if not shown:
        return ""
    parts = [part for pair in zip(shown, tables) for part in pair if part]
    return "\n\n".join([FORGETTING + (CHANGES if any(tables) else NO_CHANGES), *parts])


def _against_loss(sweep: Sweep, step: str) -> dict[str, tuple[list[Curve], list[Track]]]:
    """The metrics that are validated beside the caption loss."""
    metrics = [metric for metric in curve_metrics(sweep, step) if not metric.startswith("loss/")]
    found = {metric: (curves(sweep, step, metric), tracks(sweep, step, metric)) for metric in metrics}
    return {metric: drawn for metric, drawn in found.items() if drawn[1]}


def _changes_table(found: list[Change], step: str, metric: str) -> str:
    """What the second half of training did to loss and metric; empty if nothing was validated often enough."""
    if not found:
        return ""
    head = ["setting", "steps", "seeds", f"{CAPTION_LOSS}, change", f"{PERCENT} interval"]
    head += [f"{metric}, change", f"{PERCENT} interval", "worse while the loss falls"]
    return f"{code(step)}:\n\n{table(head, map(_change_line, found), range(1, 7))}"


def _change_line(change: Change) -> list[str]:
    start = [code(change.name), f"{change.middle} to {change.last}", str(change.metric.estimate.seeds[0])]
    sides = [[number(side.difference, sign=True), span(side.interval)] for side in (change.loss, change.metric)]
    return [*start, *sides[0], *sides[1], "shown" if change.forgets else "not shown"]
