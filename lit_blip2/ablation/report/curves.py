"""Validation metrics against steps, mean and spread over seeds: learning, and forgetting.

Settings that share their runs share one curve, named by the labels that they have in common.
"""

from dataclasses import dataclass

from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.statistics import BETTER, WORSE, Comparison, Estimate, Runs, contrast, decide, summarise
from lit_blip2.ablation.schema import is_finite, setting_name
from lit_blip2.ablation.spec.values import smaller_is_better

CAPTION_LOSS = "loss/lm"


@dataclass(frozen=True)
class Curve:
    """steps, mean and sd have the same length; an sd is None if only one seed has validated.

    setting: the setting whose look the curve has: the control, or the first of the settings that share the runs.
    """

    name: str
    setting: str
    steps: list[int]
    mean: list[float]
    sd: list[float | None]
    seeds: int  # the most that met at a step


@dataclass(frozen=True)
class Track:
    """A setting's path through (caption loss, metric): means over seeds, in the order of steps. sd: the metric's."""

    name: str
    setting: str
    loss: list[float]
    metric: list[float]
    sd: list[float | None]


@dataclass(frozen=True)
class Change:
    """What the second half of training did to the caption loss and to a metric: the last validation minus the one at
    half of the steps. The difference is taken run by run, because both validations are of one training."""

    name: str
    middle: int
    last: int
    loss: Comparison
    metric: Comparison

    @property
    def forgets(self) -> bool:
        """Whether the loss gets better and the metric worse, and both differences are shown (Holm's p)."""
        return (self.loss.verdict, self.metric.verdict) == (BETTER, WORSE)


def validating_steps(sweep: Sweep) -> list[str]:
    """The steps that have validations, such as stage1 and stage2, in the plan's order."""
    return list(dict.fromkeys(run.step for name, run in sweep.plan.steps.items() if sweep.validations.get(name)))


def curve_metrics(sweep: Sweep, step: str) -> list[str]:
    """Compared metrics and losses that the runs of a step validate, compared ones first."""
    points = [point for name, of in sweep.validations.items() if sweep.plan.steps[name].step == step for point in of]
    seen = {metric for point in points for metric, value in point.metrics.items() if is_finite(value)}
    losses = sorted(metric for metric in seen - set(sweep.metrics) if metric.startswith("loss/"))
    return [metric for metric in sweep.metrics if metric in seen] + losses


def curves(sweep: Sweep, step: str, metric: str) -> list[Curve]:
    """One curve for each set of runs that has the metric, in the order of settings."""
    found = []
    for runs, settings in _groups(sweep, step).items():
        at: dict[int, list[float]] = {}
        for run in sorted(runs):
            for steps, value in sweep.validated(run, metric).items():
                at.setdefault(steps, []).append(value)
        if at:
            summaries = [summarise(at[steps]) for steps in sorted(at)]
            mean, sd = [each.mean for each in summaries], [each.sd for each in summaries]
            found.append(Curve(*_name(sweep, settings), sorted(at), mean, sd, max(each.n for each in summaries)))
    return found


def tracks(sweep: Sweep, step: str, metric: str) -> list[Track]:
    """The metric against the caption loss, at the steps that have both."""
    losses = {curve.name: dict(zip(curve.steps, curve.mean)) for curve in curves(sweep, step, CAPTION_LOSS)}
    found = []
    for curve in curves(sweep, step, metric):
        loss = losses.get(curve.name, {})
        both = [(loss[at], mean, sd) for at, mean, sd in zip(curve.steps, curve.mean, curve.sd) if at in loss]
        if len(both) > 1:
            found.append(Track(curve.name, curve.setting, *map(list, zip(*both))))
    return found


def changes(sweep: Sweep, step: str, metric: str) -> list[Change]:
    """One change for each set of runs with three validations or more. All their intervals hold together."""
    groups = _groups(sweep, step)
    halves = [(settings, each) for runs, settings in groups.items() if (each := _halves(sweep, runs, metric))]
    loss, other = (
        decide([each[2][name] for _, each in halves], len(groups), smaller_is_better(name))
        for name in (CAPTION_LOSS, metric)
    )
    return [Change(_name(sweep, settings)[0], *each[:2], *both) for (settings, each), *both in zip(halves, loss, other)]


def _halves(sweep: Sweep, runs: frozenset[str], metric: str) -> tuple[int, int, dict[str, Estimate]] | None:
    """(step at half, last step, loss and metric -> mean change) of the runs that came furthest; None if they have no
    validation in common at half of the steps."""
    metrics = {name: {run: sweep.validated(run, name) for run in runs} for name in (CAPTION_LOSS, metric)}
    steps = {run: sorted(metrics[CAPTION_LOSS][run].keys() & metrics[metric][run].keys()) for run in runs}
    last = max((each[-1] for each in steps.values() if each), default=0)
    whole = {run for run, each in steps.items() if len(each) > 2 and each[-1] == last}
    middles = {max((at for at in steps[run] if 2 * at <= last), default=0) for run in whole}
    if len(middles) != 1 or not (middle := middles.pop()):
        return None
    changed = {name: {run: of[run][last] - of[run][middle] for run in whole} for name, of in metrics.items()}
    return middle, last, {name: contrast([Runs(by_run)], [1]) for name, by_run in changed.items()}


def _groups(sweep: Sweep, step: str) -> dict[frozenset[str], list[dict[str, str]]]:
    """Set of runs -> labels of the settings that use it."""
    groups: dict[frozenset[str], list[dict[str, str]]] = {}
    for cells in sweep.settings.values():
        used = [run for cell in cells for run in sweep.steps_of(cell)]
        runs = frozenset(run.name for run in used if run.step == step and run.command == "fit")
        if runs:
            groups.setdefault(runs, []).append(cells[0].labels)
    return groups


def _name(sweep: Sweep, settings: list[dict[str, str]]) -> tuple[str, str]:
    """The common name of settings that share their runs, and the setting whose look they have."""
    common = {k: v for k, v in settings[0].items() if all(other.get(k) == v for other in settings)}
    names = [setting_name(labels) for labels in settings]
    setting = sweep.control if sweep.control in names else names[0]
    if len(settings) == 1:
        return setting_name(common), setting
    if len(settings) == len(sweep.settings):
        return "all settings", setting
    return f"{setting_name(common)} (shared by {len(settings)})", setting
