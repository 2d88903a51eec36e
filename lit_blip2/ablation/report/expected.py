"""Decides each comparison that an ablation's file expects. All of them are one family.

A comparison came true if the difference is shown (Holm's p) in the expected direction, and the interval does not
exclude the size that matters. It did not come true if the interval excludes a difference of that size; if the
difference is shown in the other direction, the verdict says so. Otherwise, or if a cell has no value, it is open.
"""

from collections import Counter
from dataclasses import dataclass

from lit_blip2.ablation.report.markdown import number
from lit_blip2.ablation.report.records import MISSING, Sweep
from lit_blip2.ablation.report.statistics import BETTER, WORSE, Comparison, Estimate, Runs, contrast, decide
from lit_blip2.ablation.schema import DONE, Cell, setting_name
from lit_blip2.ablation.spec.expect import Expected
from lit_blip2.ablation.spec.values import smaller_is_better

CAME_TRUE, NOT_TRUE, OPEN = "came true", "did not come true", "open"


@dataclass(frozen=True)
class Outcome:
    """comparison: the setting that should be better minus the other; without a number if a cell has no value. cells:
    number of cells of both settings. without: why some have no value -> how many."""

    expected: Expected
    comparison: Comparison
    cells: int
    without: dict[str, int]

    @property
    def verdict(self) -> str:
        """In words, as at the report's head."""
        found, by = self.comparison, self.expected.by
        if self.without or not self.cells:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.without.items()) or "no such cells"
            return f"{OPEN}, {sum(self.without.values())} of {self.cells} cells without a value ({reasons})"
        if found.interval is None:
            return f"{OPEN}, {found.verdict}"
        low, high = found.interval
        if (-low if smaller_is_better(self.expected.metric) else high) < by:
            return f"{NOT_TRUE}: {'the opposite is shown' if found.verdict == WORSE else f'smaller than {by:g}'}"
        return (
            CAME_TRUE
            if found.verdict == BETTER
            else f"{OPEN}, smallest detectable difference {number(found.detectable)}"
        )


def outcomes(sweep: Sweep) -> list[Outcome]:
    """One outcome for each expected comparison, in the file's order."""
    expected = sweep.plan.expected
    sides = [[_cells(sweep, labels) for labels in (each.better, each.than)] for each in expected]
    without = [_without(sweep, each, first + second) for each, (first, second) in zip(expected, sides)]
    family = [
        Estimate((), None, why=MISSING) if lacking else contrast([_runs(sweep, each, cells) for cells in both])
        for each, both, lacking in zip(expected, sides, without)
    ]
    decided = decide(family, smaller_is_better=[smaller_is_better(each.metric) for each in expected])
    cells = [len(first) + len(second) for first, second in sides]
    return [Outcome(*each) for each in zip(expected, decided, cells, without)]


def _cells(sweep: Sweep, labels: dict[str, str]) -> list[Cell]:
    return sweep.settings.get(setting_name(labels), [])


def _runs(sweep: Sweep, expected: Expected, cells: list[Cell]) -> Runs:
    """The runs of one setting. A metric at a step of training has values by seed alone, and no results per image."""
    if expected.at is None:
        return sweep.runs(cells, expected.metric)
    at = {cell.seed: sweep.validated_at(cell, expected.metric, expected.at) for cell in cells}
    return Runs({seed: value for seed, value in at.items() if value is not None})


def _without(sweep: Sweep, expected: Expected, cells: list[Cell]) -> dict[str, int]:
    """Reason -> number of cells that have no value for this reason."""
    if expected.at is None:
        return dict(Counter(reason for cell in cells if (reason := sweep.without(cell, expected.metric))))
    lacking = [cell for cell in cells if sweep.validated_at(cell, expected.metric, expected.at) is None]
    return dict(Counter(MISSING if sweep.state(cell) == DONE else sweep.state(cell) for cell in lacking))
