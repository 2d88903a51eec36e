"""What a metric says of each setting: its seeds, their mean and spread, and how it compares to the control."""

from collections import Counter
from dataclasses import dataclass

from lit_blip2.ablation.report.records import NOT_PLANNED, Cell, Sweep
from lit_blip2.ablation.report.statistics import Comparison, Summary, compare, summarise
from lit_blip2.ablation.spec.values import smaller_is_better


@dataclass(frozen=True)
class Row:
    """One setting in one metric. without: why seeds have no figure, and how many. comparison: None of the control
    itself, and where there is nothing to compare to."""

    setting: str
    values: dict[int, float]
    seeds: int
    without: dict[str, int]
    summary: Summary
    comparison: Comparison | None
    is_control: bool

    @property
    def planned(self) -> bool:
        """Whether the setting can have the metric at all."""
        return self.without.get(NOT_PLANNED, 0) < self.seeds


@dataclass(frozen=True)
class Asked:
    """A pair of settings that the ablation's file asks for: the first held against the second."""

    first: str
    second: str
    comparison: Comparison


@dataclass(frozen=True)
class Result:
    """One metric in every setting. comparisons: settings held against the control, whether they have ended or not, so
    that an interval does not grow while a sweep runs. asked: pairs beside these, corrected for their own number."""

    metric: str
    rows: list[Row]
    comparisons: int
    asked: list[Asked]

    @property
    def pairs(self) -> list[int]:
        """The numbers of paired seeds that gave an interval, largest first."""
        found = {row.comparison.n for row in self.rows if row.comparison and row.comparison.half_width is not None}
        return sorted(found, reverse=True)


def result(sweep: Sweep, metric: str) -> Result:
    """One metric of a sweep, settings in the plan's order."""
    settings = sweep.settings()
    control = _values(settings.get(sweep.control, []), metric) if sweep.control else {}
    possible = [name for name, cells in settings.items() if any(metric in cell.planned for cell in cells)]
    comparisons = len(set(possible) - {sweep.control}) if sweep.control in possible else 0
    rows = []
    for name, cells in settings.items():
        values = _values(cells, metric)
        comparison = None
        if comparisons and name in possible and name != sweep.control:
            comparison = compare(values, control, comparisons, smaller_is_better(metric))
        without = Counter(reason for cell in cells if (reason := cell.without(metric)))
        row = Row(
            name, values, len(cells), dict(without), summarise(values.values()), comparison, name == sweep.control
        )
        rows.append(row)
    return Result(metric, rows, comparisons, _asked(sweep, settings, possible, metric))


def _asked(sweep: Sweep, settings: dict[str, list[Cell]], possible: list[str], metric: str) -> list[Asked]:
    pairs = [(first, second) for first, second in sweep.compare if first in possible and second in possible]
    return [
        Asked(
            first,
            second,
            compare(
                _values(settings[first], metric),
                _values(settings[second], metric),
                len(pairs),
                smaller_is_better(metric),
            ),
        )
        for first, second in pairs
    ]


def _values(cells: list[Cell], metric: str) -> dict[int, float]:
    return {cell.seed: cell.metrics[metric] for cell in cells if cell.without(metric) is None}
