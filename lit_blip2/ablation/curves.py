"""Validation figures against steps, mean and spread over seeds: learning, and forgetting.

Settings that share a run have the same curve: it is one line, named by the labels that they have in common.
"""

from dataclasses import dataclass

from lit_blip2.ablation.records import Sweep, setting_name
from lit_blip2.ablation.statistics import summarise

CAPTION_LOSS = "loss/lm"


@dataclass(frozen=True)
class Line:
    """steps, mean and sd are of one length; sd is None where one seed has validated.

    first: the label of the first axis, as axis=label.
    """

    name: str
    first: str
    steps: list[int]
    mean: list[float]
    sd: list[float | None]
    seeds: int  # the most that met at a step


@dataclass(frozen=True)
class Track:
    """A setting's way through (caption loss, metric), means over seeds, in the order of steps."""

    name: str
    first: str
    loss: list[float]
    metric: list[float]


def kinds(sweep: Sweep) -> list[str]:
    """The steps that validate, such as stage1 and stage2, in the plan's order."""
    return list(dict.fromkeys(step.kind for step in sweep.steps.values() if step.validation))


def curve_metrics(sweep: Sweep, kind: str) -> list[str]:
    """Compared metrics and losses that the steps of a kind validate, compared ones first."""
    seen = {name for step in sweep.steps.values() if step.kind == kind for entry in step.validation for name in entry}
    losses = sorted(name for name in seen - set(sweep.metrics) if name.startswith("loss/"))
    return [name for name in sweep.metrics if name in seen] + losses


def lines(sweep: Sweep, kind: str, metric: str) -> list[Line]:
    """A line for each set of runs that has the metric, in the order of settings."""
    found = []
    for runs, settings in _groups(sweep, kind).items():
        at: dict[int, list[float]] = {}
        for run in sorted(runs):
            # a run that was taken up again validates a step twice: the later one counts
            for step, value in {e["step"]: e[metric] for e in sweep.steps[run].validation if metric in e}.items():
                at.setdefault(int(step), []).append(value)
        if at:
            name, first = _name(sweep, settings)
            summaries = [summarise(at[step]) for step in sorted(at)]
            mean, sd = [each.mean for each in summaries], [each.sd for each in summaries]
            found.append(Line(name, first, sorted(at), mean, sd, max(each.n for each in summaries)))
    return found


def tracks(sweep: Sweep, kind: str, metric: str) -> list[Track]:
    """The metric against the caption loss, at the steps that have both."""
    losses = {line.name: dict(zip(line.steps, line.mean)) for line in lines(sweep, kind, CAPTION_LOSS)}
    found = []
    for line in lines(sweep, kind, metric):
        both = [(losses[line.name][s], v) for s, v in zip(line.steps, line.mean) if s in losses.get(line.name, {})]
        if len(both) > 1:
            found.append(Track(line.name, line.first, [loss for loss, _ in both], [value for _, value in both]))
    return found


def _groups(sweep: Sweep, kind: str) -> dict[frozenset[str], list[dict[str, str]]]:
    """Labels of the settings that use each set of runs."""
    groups: dict[frozenset[str], list[dict[str, str]]] = {}
    for cells in sweep.settings().values():
        steps = [step for cell in cells for step in sweep.steps_of(cell)]
        runs = frozenset(step.name for step in steps if step.kind == kind and step.command == "fit")
        if runs:
            groups.setdefault(runs, []).append(cells[0].labels)
    return groups


def _name(sweep: Sweep, settings: list[dict[str, str]]) -> tuple[str, str]:
    common = {k: v for k, v in settings[0].items() if all(other.get(k) == v for other in settings)}
    axis = next(iter(sweep.axes), "")
    first = f"{axis}={settings[0].get(axis, '')}"
    if len(settings) == 1:
        return setting_name(common), first
    if len(settings) == len(sweep.settings()):
        return "all settings", first
    return f"{setting_name(common)} (shared by {len(settings)})", first
