"""Main effects and two-way interactions of a grid's axes, as contrasts of its settings' means.

The main effect of a label is the mean of the settings that have it, minus the mean of the same settings with the
control's label of this axis. The interaction of labels of two axes is how much the effect of the first changes when the
second axis goes from the control's label to this one. It is 0 if each has the same effect with the other and without.
A grid need not be complete: both are taken over those settings of the other axes in which every corner is planned.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.statistics import Comparison, Estimate, contrast, decide
from lit_blip2.ablation.schema import setting_name
from lit_blip2.ablation.spec.values import smaller_is_better

Labels = Mapping[str, str]  # axis -> label
Weights = dict[str, float]  # setting -> its weight in a contrast


@dataclass(frozen=True)
class Effect:
    """label: such as itc=off. over: number of settings of the other axes that it is a mean of.

    at: for an interaction, the control's label of the second axis, and the label that the effect changes with. simple:
    the first label's effect at each of these; None if a setting has no value. Both are empty for a main effect.
    """

    label: str
    at: tuple[str, ...]
    simple: tuple[float | None, ...]
    over: int
    comparison: Comparison


def effects(sweep: Sweep, metric: str) -> tuple[list[Effect], list[Effect]]:
    """Main effects and interactions, a family each. Both are empty for a grid without an interaction to show."""
    possible = [cells[0].labels for cells in sweep.settings.values() if any(cell.metrics.get(metric) for cell in cells)]
    base = {axis: labels[0] for axis, labels in sweep.plan.axes.items() if labels} | (sweep.plan.control or {})
    alone = [{axis: label} for axis, labels in sweep.plan.axes.items() for label in labels if label != base[axis]]
    together = [a | b for a, b in itertools.combinations(alone, 2) if a.keys() != b.keys()]
    interactions = _family(sweep, metric, possible, together, base)
    return (_family(sweep, metric, possible, alone, base), interactions) if interactions else ([], [])


def _family(
    sweep: Sweep, metric: str, possible: Sequence[Labels], changes: Sequence[Labels], base: Labels
) -> list[Effect]:
    """The effects of those changes that have all their corners."""
    runs = {name: sweep.runs(cells, metric) for name, cells in sweep.settings.items()}

    def estimate(contrasts: Sequence[Weights]) -> Estimate:
        """The estimate of the contrasts' mean."""
        weights: Weights = {}
        for name, weight in (pair for each in contrasts for pair in each.items()):
            weights[name] = weights.get(name, 0.0) + weight / len(contrasts)
        return contrast([runs[name] for name in weights], list(weights.values()))

    found = [(each, corners) for each in changes if (corners := _corners(possible, each, base))]
    decided = decide([estimate(corners) for _, corners in found], None, smaller_is_better(metric))
    family = []
    for (change, corners), comparison in zip(found, decided):
        (axis, label), *second = change.items()
        at = tuple(f"{other}={one}" for other, changed in second for one in (base[other], changed))
        simple = tuple(estimate(each).difference for each in _simple(corners))
        family.append(Effect(f"{axis}={label}", at, simple, len(corners), comparison))
    return family


def _corners(possible: Sequence[Labels], change: Labels, base: Labels) -> list[Weights]:
    """For each setting of the other axes that has all corners: each corner's setting -> its weight, 1 if an even number
    of the changed labels is put back to the control's, -1 if an odd number is."""
    names, found = {setting_name(labels) for labels in possible}, []
    for labels in [each for each in possible if change.items() <= each.items()]:
        weights = {}
        for kept in itertools.product((True, False), repeat=len(change)):
            back = {axis: base[axis] for axis, keep in zip(change, kept) if not keep}
            weights[setting_name({**labels, **back})] = (-1.0) ** len(back)
        if weights.keys() <= names:
            found.append(weights)
    return found


def _simple(corners: Sequence[Weights]) -> list[list[Weights]]:
    """The contrasts of an interaction's simple effects: of the first label at the control's label of the second axis,
    then at the second label. Empty for a main effect."""
    if len(corners[0]) == 2:
        return []
    both, first, second, none = zip(*corners)
    pairs = zip(first, none), zip(both, second)
    return [[{with_it: 1.0, without: -1.0} for with_it, without in each] for each in pairs]
