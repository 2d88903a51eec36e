"""Is a setting better than the control? Paired Student-t intervals over seeds, family-wise.

Two settings at one seed see the same batches in the same order, so their difference is taken seed by seed: what a seed
does to both drops out. With d the mean of the differences, s their standard deviation (n - 1) and n the seeds that both
have, the interval is d -+ t s / sqrt(n). t is Student's quantile at 1 - (1 - LEVEL) / (2 m) with n - 1 degrees of
freedom, m the number of comparisons made together (Bonferroni): all m intervals hold together at LEVEL.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEVEL = 0.95
PERCENT = f"{100 * LEVEL:g} %"
POWER = 0.8
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
TOO_FEW, NO_SPREAD = "too few seeds", "no spread"
ALIKE = 1e-6  # of the largest value: differences closer than this agree to single precision


@dataclass(frozen=True)
class Summary:
    """Of one setting's seeds. mean is None for no value, sd for fewer than two."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Comparison:
    """Of a setting to the control, over the n seeds that both have.

    half_width: of the interval. detectable: the smallest true difference that this many seeds of this spread show with
    probability POWER, (t + t_POWER) s / sqrt(n), t_POWER being Student's quantile at POWER; one as small as the
    half-width is shown only every other time. Both are None where there is no interval: n < 2, or differences without
    any spread. verdict is one of the words above.
    """

    n: int
    difference: float | None
    half_width: float | None
    detectable: float | None
    verdict: str

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.half_width is None:
            return None
        return self.difference - self.half_width, self.difference + self.half_width


def summarise(values: Iterable[float]) -> Summary:
    """Mean and standard deviation (n - 1). ValueError for a value that is not finite."""
    values = list(values)
    if odd := [value for value in values if not math.isfinite(value)]:
        raise ValueError(f"{odd[0]} has no mean: leave runs without a finite metric out, and say so")
    mean = statistics.fmean(values) if values else None
    return Summary(len(values), mean, statistics.stdev(values) if len(values) > 1 else None)


def t_quantile(n: int, comparisons: int = 1, level: float = LEVEL) -> float:
    """How many standard errors the interval of n paired seeds reaches to either side."""
    from scipy import stats

    if n < 2 or comparisons < 1 or not 0 < level < 1:
        raise ValueError(f"n = {n}, {comparisons} comparisons, level {level}: n >= 2, 1 or more, and 0..1 are needed")
    return float(stats.t.ppf(1 - (1 - level) / (2 * comparisons), n - 1))


def compare(
    setting: Mapping[int, float],
    control: Mapping[int, float],
    comparisons: int = 1,
    smaller_is_better: bool = False,
) -> Comparison:
    """A setting's values by seed against another's, such as the control's. comparisons: how many are made together.

    Equal differences in every seed leave no interval: nothing is known of the noise. A common difference of zero is "no
    difference shown", any other "no spread", however large it is.
    """
    seeds = sorted(setting.keys() & control.keys())
    paired = summarise(setting[seed] - control[seed] for seed in seeds)
    if paired.n < 2:
        return Comparison(paired.n, paired.mean, None, None, TOO_FEW)
    rounding = ALIKE * max(abs(side[seed]) for seed in seeds for side in (setting, control))
    if paired.sd <= rounding:
        verdict = NOT_SHOWN if abs(paired.mean) <= rounding else NO_SPREAD
        return Comparison(paired.n, paired.mean, None, None, verdict)
    error = paired.sd / math.sqrt(paired.n)
    half_width = t_quantile(paired.n, comparisons) * error
    gain = -paired.mean if smaller_is_better else paired.mean
    verdict = BETTER if gain > half_width else WORSE if gain < -half_width else NOT_SHOWN
    detectable = half_width + t_quantile(paired.n, level=2 * POWER - 1) * error
    return Comparison(paired.n, paired.mean, half_width, detectable, verdict)
