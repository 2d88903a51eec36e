"""How a report says that differences are judged: the columns of a comparison, and the sentences below its table."""

from collections.abc import Sequence

from lit_blip2.ablation.report.images import OTHER_IMAGES
from lit_blip2.ablation.report.markdown import number, span
from lit_blip2.ablation.report.statistics import LEVEL, NO_ITEMS, NO_SPREAD, PERCENT, POWER, TOO_FEW, Comparison

DETECTABLE = f"smallest detectable difference ({100 * POWER:g} % power)"
COMPARED = ["difference", f"{PERCENT} interval", "p (Holm)", "df", DETECTABLE, "verdict"]
METHOD = (
    "Differences of means are judged by Welch's t over seeds, with Satterthwaite's degrees of freedom (df): seeds are "
    "not paired, spreads not pooled. Where results per image are known, the variance of drawing other images is added, "
    "so that an interval speaks of new seeds and new images: from jackknife pseudo-values of each run's images, as in "
    "studies of many readers and cases (Dorfman, Berbaum and Metz, Investigative Radiology 27, 1992; Hillis, "
    f"Statistics in Medicine 26, 2007). A table's intervals hold together at {PERCENT} (Bonferroni); its p are "
    f"adjusted by Holm's method. A difference is shown where that p is below {1 - LEVEL:.2g}, which Holm's method may "
    "reach where Bonferroni's interval still holds 0. A true difference of the smallest detectable size is shown by so "
    f"many seeds of this spread in {100 * POWER:g} % of sweeps."
)
WHY = {
    TOO_FEW: "fewer than two in a setting",
    NO_SPREAD: "every seed has the same value, which says nothing of the noise",
    NO_ITEMS: "some runs have them, others have not",
    OTHER_IMAGES: "the settings' tests do not hold the same images",
}


def compared(found: Comparison) -> list[str]:
    """A comparison's entries for the columns COMPARED."""
    difference = number(found.difference, sign=True)
    numbers = [number(each) for each in (found.p, found.estimate.df, found.detectable)]
    return [difference, span(found.interval), *numbers, found.verdict]


def family(comparisons: int) -> str:
    """A sentence on how many comparisons are made together."""
    each = f", each interval at {100 * (1 - (1 - LEVEL) / comparisons):.4g} %" if comparisons > 1 else ""
    return f"Compared together: m = {comparisons}{each}."


def speaks_of(found: Sequence[Comparison]) -> str:
    """Sentences on what the intervals cover, and why some comparisons have none."""
    images = {each.estimate.images for each in found if each.half_width is not None}
    text = "There is no interval yet."
    if images == {None}:
        text = "The intervals are over seeds alone: no results per image are known."
    elif images:
        seen = " or ".join(f"{each:,}" for each in sorted(each for each in images if each))
        text = f"The intervals are over seeds and {seen} images"
        text += ", or over seeds alone where no results per image are known." if None in images else "."
    return " ".join([text, *(f'"{word.capitalize()}": {why}.' for word, why in WHY.items() if _occurs(word, found))])


def _occurs(word: str, found: Sequence[Comparison]) -> bool:
    return any(each.verdict == word for each in found)
