"""What a metric says of each setting: its seeds, their mean and spread, and how it compares to the control."""

from collections import Counter
from dataclasses import dataclass

from lit_blip2.ablation.report.records import NOT_PLANNED, Sweep
from lit_blip2.ablation.report.statistics import Comparison, Summary, contrast, decide, summarise
from lit_blip2.ablation.spec.values import smaller_is_better
from lit_blip2.evaluation.evaluated import Evaluated
from lit_blip2.evaluation.rules import Rules


@dataclass(frozen=True)
class SettingResult:
    """One metric in one setting. values: by seed. without: why seeds have no value -> how many. evaluated: what the
    values were measured on, each once. rules: the evaluation rules of the values. comparison: to the control; None for
    the control itself, and if there is nothing to compare to."""

    setting: str
    values: dict[int, float]
    seeds: int
    without: dict[str, int]
    evaluated: list[Evaluated]
    rules: list[Rules]
    summary: Summary
    comparison: Comparison | None
    is_control: bool

    @property
    def planned(self) -> bool:
        """Whether the setting can have the metric at all."""
        return self.without.get(NOT_PLANNED, 0) < self.seeds


@dataclass(frozen=True)
class Pair:
    """Two settings that the ablation's file asks to compare: the first minus the second."""

    first: str
    second: str
    comparison: Comparison


@dataclass(frozen=True)
class MetricResult:
    """One metric in every setting. comparisons: number of settings compared to the control, whether they have ended or
    not, so that an interval does not grow while a sweep runs. pairs: further ones, corrected for their own number."""

    metric: str
    settings: list[SettingResult]
    comparisons: int
    pairs: list[Pair]

    @property
    def control(self) -> SettingResult | None:
        return next((each for each in self.settings if each.is_control), None)

    @property
    def compared(self) -> list[Comparison]:
        return [each.comparison for each in self.settings if each.comparison]


def metric_result(sweep: Sweep, metric: str) -> MetricResult:
    """One metric of a sweep, settings in the plan's order."""
    runs = {name: sweep.runs(cells, metric) for name, cells in sweep.settings.items()}
    possible = [name for name, cells in sweep.settings.items() if any(cell.metrics.get(metric) for cell in cells)]
    others = [name for name in possible if name != sweep.control] if sweep.control in possible else []
    asked = [pair for pair in sweep.plan.compare if set(pair) <= set(possible)]

    def decided(pairs: list[tuple[str, str]]) -> list[Comparison]:
        family = [contrast([runs[first], runs[second]]) for first, second in pairs]
        return decide(family, smaller_is_better=smaller_is_better(metric))

    against = dict(zip(others, decided([(name, sweep.control) for name in others])))
    settings = []
    for name, cells in sweep.settings.items():
        without = Counter(reason for cell in cells if (reason := sweep.without(cell, metric)))
        summary, is_control = summarise(runs[name].values.values()), name == sweep.control
        on = list(dict.fromkeys(each for cell in cells if (each := sweep.evaluated(cell, metric))))
        rules = [each for cell in cells if (each := sweep.rules(cell, metric))]
        about = (name, runs[name].values, len(cells), dict(without), on, rules)
        settings.append(SettingResult(*about, summary, against.get(name), is_control))
    pairs = [Pair(*pair, comparison) for pair, comparison in zip(asked, decided(asked))]
    return MetricResult(metric, settings, len(others), pairs)
