"""Validation figures against steps, mean and spread over seeds: learning, and forgetting.

Settings that share a run have the same curve: it is one line, named by the labels that they have in common.
"""

from dataclasses import dataclass

from lit_blip2.ablation.report.records import Sweep, setting_name
from lit_blip2.ablation.report.statistics import BETTER, WORSE, Comparison, compare, summarise
from lit_blip2.ablation.spec.values import smaller_is_better

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
    """A setting's way through (caption loss, metric), means over seeds, in the order of steps; sd of the metric."""

    name: str
    first: str
    loss: list[float]
    metric: list[float]
    sd: list[float | None]


@dataclass(frozen=True)
class Change:
    """What the second half of training did to the caption loss and to a metric: the last validation minus the one at
    half of the steps, paired by run."""

    name: str
    middle: int
    last: int
    loss: Comparison
    metric: Comparison

    @property
    def forgets(self) -> bool:
        """The loss gets better and the metric worse, and the intervals show it."""
        return (self.loss.verdict, self.metric.verdict) == (BETTER, WORSE)


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
            for step, value in _validated(sweep, run, metric).items():
                at.setdefault(step, []).append(value)
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
        known = losses.get(line.name, {})
        both = [(known[s], v, sd) for s, v, sd in zip(line.steps, line.mean, line.sd) if s in known]
        if len(both) > 1:
            found.append(Track(line.name, line.first, *map(list, zip(*both))))
    return found


def changes(sweep: Sweep, kind: str, metric: str) -> list[Change]:
    """For each set of runs with three validations or more; intervals hold together over all of them."""
    groups = _groups(sweep, kind)
    found = []
    for runs, settings in groups.items():
        steps = {run: sorted(_validated(sweep, run, metric).keys() & _validated(sweep, run, CAPTION_LOSS).keys())
                 for run in runs}  # fmt: skip
        last = max((each[-1] for each in steps.values() if each), default=0)
        whole = {run for run, each in steps.items() if len(each) > 2 and each[-1] == last}
        middles = {max((s for s in steps[run] if 2 * s <= last), default=0) for run in whole}
        if len(middles) == 1 and (middle := middles.pop()):
            name, _ = _name(sweep, settings)
            pair = [
                [{run: _validated(sweep, run, of)[step] for run in whole} for step in (last, middle)]
                for of in (CAPTION_LOSS, metric)
            ]
            found.append(
                Change(
                    name,
                    middle,
                    last,
                    *(compare(*each, len(groups), less) for each, less in zip(pair, (True, smaller_is_better(metric)))),
                )
            )
    return found


def _validated(sweep: Sweep, run: str, metric: str) -> dict[int, float]:
    """Step -> figure. A run that was taken up again validates a step twice: the later one counts."""
    return {int(entry["step"]): entry[metric] for entry in sweep.steps[run].validation if metric in entry}


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
