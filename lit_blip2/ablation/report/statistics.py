"""Is a setting better than another? Welch's t over seeds, and over images where runs keep their results per image.

A contrast is a weighted sum of settings' means: a setting minus the control, or an effect of an axis. For setting a,
let c be the weight, m the mean over its n seeds and s their standard deviation (n - 1). Then (Welch, Biometrika 34,
1947; Satterthwaite, Biometrics Bulletin 2, 1946), with v[a] = c² s² / n,

    estimate = sum of c m        variance = sum of v        degrees of freedom = variance² / (sum of v² / (n - 1))

Seeds are not paired: what a seed does to one setting says next to nothing of another, and pairing would halve the
degrees of freedom. Spreads are not pooled: they differ too much between settings. Settings may have different seeds.

Where the runs' results per image are known, images.py adds the variance of drawing other images as one more v, with
G - 1 degrees of freedom for G images: the interval then speaks of new seeds and new images.

A family is the m contrasts that are made together. Its intervals are Bonferroni's, each at 1 - (1 - LEVEL) / m: all
hold together at LEVEL. Its p are Holm's (Scandinavian Journal of Statistics 6, 1979): the smallest of m times m, the
next times m - 1, and so on. A difference is shown if Holm's p is below 1 - LEVEL. It is wherever the interval excludes
0, and sometimes where it does not.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lit_blip2.ablation.report.images import OTHER_IMAGES, PerImage, image_variance, same_images

LEVEL = 0.95
PERCENT = f"{100 * LEVEL:g} %"
POWER = 0.8
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
TOO_FEW, NO_SPREAD, NO_ITEMS = "too few seeds", "no spread", "results per image are missing"
ALIKE = 1e-6  # as a share of the largest value: values closer than this agree to single precision


@dataclass(frozen=True)
class Summary:
    """Summary of one setting's seeds. mean is None without a value, sd with fewer than two."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Runs:
    """One setting's runs. values: by seed. images: results per image; None if fewer than two runs have them."""

    values: Mapping[int, float]
    images: PerImage | None = None


@dataclass(frozen=True)
class Estimate:
    """A contrast, before it is known which others are made with it.

    seeds: how many each setting has. error: standard error; None if there is none, and `why` says why. images: number
    of test images, if the error also covers drawing others; None if it is over seeds alone.
    """

    seeds: tuple[int, ...]
    difference: float | None
    error: float | None = None
    df: float | None = None
    images: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """A contrast in its family. half_width: of its interval. p: Holm's. detectable: the smallest true difference that
    this many seeds of this spread show with probability POWER. It is (t + t_POWER) times the standard error, where
    t_POWER is Student's quantile at POWER; a true difference as small as the half-width is shown only every other time.
    All three are None without a standard error. verdict: one of the words above.
    """

    estimate: Estimate
    half_width: float | None
    p: float | None
    detectable: float | None
    verdict: str

    @property
    def difference(self) -> float | None:
        return self.estimate.difference

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.half_width is None:
            return None
        return self.difference - self.half_width, self.difference + self.half_width


def summarise(values: Iterable[float]) -> Summary:
    """Mean and standard deviation (n - 1). Raises ValueError for a value that is not finite."""
    values = list(values)
    if odd := [value for value in values if not math.isfinite(value)]:
        raise ValueError(f"{odd[0]} has no mean: leave runs without a finite metric out, and say so")
    mean, n = math.fsum(values) / len(values) if values else None, len(values)
    return Summary(n, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None)


def contrast(settings: Sequence[Runs], weights: Sequence[float] = (1, -1)) -> Estimate:
    """The weighted sum of the settings' means; by default the first minus the second.

    There is no standard error if the seeds of every setting agree, because then nothing is known of the noise. Nor is
    there one if some runs have results per image and others have none, or if the settings' images differ.
    """
    found = [summarise(each.values.values()) for each in settings]
    seeds = tuple(each.n for each in found)
    if not all(seeds):
        return Estimate(seeds, None, why=TOO_FEW)
    difference = math.fsum(weight * each.mean for weight, each in zip(weights, found, strict=True))
    if min(seeds) < 2:
        return Estimate(seeds, difference, why=TOO_FEW)
    rounding = ALIKE * max(abs(value) for each in settings for value in each.values.values())
    if all(each.sd <= rounding for each in found):
        return Estimate(seeds, difference, why=NOT_SHOWN if abs(difference) <= rounding else NO_SPREAD)
    parts = [((weight * each.sd) ** 2 / each.n, each.n - 1) for weight, each in zip(weights, found)]
    images = [each.images for each in settings]
    if not any(images):
        return Estimate(seeds, difference, *_error(parts))
    if any(each is None or len(each.values) < n for each, n in zip(images, seeds)):
        return Estimate(seeds, difference, why=NO_ITEMS)
    if not same_images(images):
        return Estimate(seeds, difference, why=OTHER_IMAGES)
    number = len(images[0].ids)
    parts.append((image_variance(images, weights), number - 1))
    return Estimate(seeds, difference, *_error(parts), number)


def _error(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of independent (variance, degrees of freedom)."""
    variance = math.fsum(part for part, _ in parts)
    shares = [(part / variance, df) for part, df in parts]
    return math.sqrt(variance), 1 / math.fsum(share**2 / df for share, df in shares)


def t_quantile(df: float, comparisons: int = 1, level: float = LEVEL) -> float:
    """How many standard errors the interval reaches to either side."""
    from scipy import stats

    if not df > 0 or comparisons < 1 or not 0 < level < 1:
        raise ValueError(f"df = {df}, {comparisons} comparisons, level {level}: df > 0, 1 or more, 0..1 are needed")
    return float(stats.t.ppf(1 - (1 - level) / (2 * comparisons), df))


def p_value(estimate: Estimate) -> float | None:
    """The two-sided p of this contrast alone; None without a standard error."""
    from scipy import stats

    if estimate.error is None:
        return None
    return float(2 * stats.t.sf(abs(estimate.difference) / estimate.error, estimate.df))


def holm(p: Sequence[float | None], comparisons: int) -> list[float | None]:
    """Holm's adjusted p: those below a level hold together at it. comparisons: size of the family. Members that have no
    p yet count as the largest."""
    known = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted, so_far = list(p), 0.0
    for rank, (value, place) in enumerate(known):
        adjusted[place] = so_far = max(so_far, min(1.0, (comparisons - rank) * value))
    return adjusted


def decide(
    family: Sequence[Estimate], comparisons: int | None = None, smaller_is_better: bool | Sequence[bool] = False
) -> list[Comparison]:
    """Decides each contrast of a family. comparisons: how many are made together, if more than are given here."""
    number = len(family) if comparisons is None else comparisons
    signs = [smaller_is_better] * len(family) if isinstance(smaller_is_better, bool) else smaller_is_better
    adjusted = holm([p_value(each) for each in family], number)
    return [_decided(*each, number) for each in zip(family, adjusted, signs, strict=True)]


def _decided(estimate: Estimate, p: float | None, smaller_is_better: bool, comparisons: int) -> Comparison:
    if estimate.error is None:
        return Comparison(estimate, None, None, None, estimate.why)
    half_width = t_quantile(estimate.df, comparisons) * estimate.error
    detectable = half_width + t_quantile(estimate.df, level=2 * POWER - 1) * estimate.error
    is_better = (estimate.difference > 0) != smaller_is_better
    verdict = (BETTER if is_better else WORSE) if p < 1 - LEVEL else NOT_SHOWN
    return Comparison(estimate, half_width, p, detectable, verdict)
