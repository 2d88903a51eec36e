"""Paired intervals against hand-worked cases, printed tables and SciPy's paired test."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_blip2.ablation.report.statistics import (
    BETTER,
    NO_SPREAD,
    NOT_SHOWN,
    TOO_FEW,
    WORSE,
    Summary,
    compare,
    summarise,
    t_quantile,
)
from lit_blip2.ablation.spec.values import smaller_is_better

FLIPPED = {BETTER: WORSE, WORSE: BETTER, NOT_SHOWN: NOT_SHOWN, NO_SPREAD: NO_SPREAD, TOO_FEW: TOO_FEW}
thousandths = st.integers(-1000, 1000).map(lambda n: n / 1000)
pairs = st.dictionaries(st.integers(0, 20), st.tuples(thousandths, thousandths), min_size=2, max_size=8)


def sides(by_seed: dict[int, tuple[float, float]]) -> list[dict[int, float]]:
    return [{seed: values[side] for seed, values in by_seed.items()} for side in (0, 1)]


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_summaries_by_hand():
    assert summarise([]) == Summary(0, None, None)
    assert summarise([0.25]) == Summary(1, 0.25, None)
    assert summarise([2.0, 4.0, 6.0]) == Summary(3, 4.0, 2.0)
    with pytest.raises(ValueError, match="nan has no mean"):
        summarise([0.5, math.nan])


@pytest.mark.parametrize(
    ("n", "comparisons", "level", "printed"),
    [  # two-sided, from printed tables of Student's t
        (2, 1, 0.95, 12.706),
        (3, 1, 0.95, 4.303),
        (5, 1, 0.95, 2.776),
        (11, 1, 0.95, 2.228),
        (3, 5, 0.95, 9.925),  # 5 comparisons at 95 % are each at 99 %
        (6, 5, 0.95, 4.032),
        (5, 1, 0.99, 4.604),
        (3, 2, 0.95, 6.205),
    ],
)
def test_quantiles_as_printed(n, comparisons, level, printed):
    assert t_quantile(n, comparisons, level) == pytest.approx(printed, abs=6e-4)


def test_quantiles_refuse_what_has_none():
    for arguments in ((1, 1), (3, 0), (3, 1, 1.0)):
        with pytest.raises(ValueError, match="are needed"):
            t_quantile(*arguments)


def test_a_comparison_by_hand():
    # differences .1, .2, .3: mean .2, sd .1, half-width 4.3027 * .1 / sqrt(3) = .24841
    control, setting = by_seed(0.5, 0.6, 0.4), by_seed(0.6, 0.8, 0.7)
    found = compare(setting, control)
    assert (found.n, found.verdict) == (3, NOT_SHOWN)
    assert found.difference == pytest.approx(0.2) and found.half_width == pytest.approx(0.24841, abs=1e-5)
    # differences .2, .3, .4 clear it; for a loss more is worse; nine comparisons ask for more
    setting = by_seed(0.7, 0.9, 0.8)
    assert compare(setting, control).verdict == BETTER
    assert compare(setting, control, smaller_is_better=True).verdict == WORSE
    assert compare(setting, control, comparisons=9).verdict == NOT_SHOWN


def test_only_common_seeds_are_paired():
    found = compare({0: 0.6, 1: 0.8, 7: 99.0}, {0: 0.5, 1: 0.6, 2: -99.0})
    assert found.n == 2 and found.difference == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("setting", "control", "n", "difference"),
    [({}, {}, 0, None), ({0: 0.5}, {}, 0, None), ({0: 0.5}, {1: 0.4}, 0, None), ({0: 0.5}, {0: 0.25, 1: 0.9}, 1, 0.25)],
)
def test_fewer_than_two_pairs_are_too_few(setting, control, n, difference):
    found = compare(setting, control)
    assert (found.n, found.difference, found.half_width, found.verdict) == (n, difference, None, TOO_FEW)


def test_equal_differences_give_no_interval():
    same = by_seed(0.5, 0.6, 0.7)
    assert compare(same, dict(same)).verdict == NOT_SHOWN
    # .6 - .5, .7 - .6, .8 - .7 differ in their last digits only
    shifted = compare(by_seed(0.6, 0.7, 0.8), same)
    assert (shifted.half_width, shifted.verdict) == (None, NO_SPREAD)
    assert shifted.difference == pytest.approx(0.1)
    assert compare(by_seed(0.0, 0.0), by_seed(0.0, 0.0)).verdict == NOT_SHOWN


@pytest.mark.parametrize(
    ("metric", "smaller"),
    [
        ("loss/lm", True),
        ("train/total_loss", True),
        ("text/perplexity", True),
        ("vqa/accuracy", False),
        ("retrieval/itc_txt_r1", False),
    ],
)
def test_direction(metric, smaller):
    assert smaller_is_better(metric) is smaller


@settings(deadline=None)
@given(pairs, st.integers(1, 10))
def test_scipy_agrees(by_seed, comparisons):
    setting, control = sides(by_seed)
    found = compare(setting, control, comparisons)
    assume(found.half_width is not None)
    test = stats.ttest_rel([setting[seed] for seed in by_seed], [control[seed] for seed in by_seed])
    interval = test.confidence_interval(1 - 0.05 / comparisons)
    assert found.difference - found.half_width == pytest.approx(interval.low, rel=1e-12, abs=1e-12)
    assert found.difference + found.half_width == pytest.approx(interval.high, rel=1e-12, abs=1e-12)
    differences = [setting[seed] - control[seed] for seed in by_seed]
    power = stats.t.ppf(0.8, len(by_seed) - 1) * stats.sem(differences)
    assert found.detectable == pytest.approx(interval.high - found.difference + power, rel=1e-12, abs=1e-12)
    limit = 0.05 / comparisons
    assume(abs(test.pvalue - limit) > 1e-9)
    assert (found.verdict in (BETTER, WORSE)) == (test.pvalue < limit)


@settings(deadline=None)
@given(pairs, thousandths)
def test_a_common_shift_changes_nothing(by_seed, shift):
    setting, control = sides(by_seed)
    before = compare(setting, control)
    after = compare({s: v + shift for s, v in setting.items()}, {s: v + shift for s, v in control.items()})
    assert after.difference == pytest.approx(before.difference, abs=1e-9)
    assert (after.half_width or 0) == pytest.approx(before.half_width or 0, abs=1e-9)
    assume(before.half_width is None or abs(abs(before.difference) - before.half_width) > 1e-9)
    assert after.verdict == before.verdict


@settings(deadline=None)
@given(pairs)
def test_the_other_way_round_the_verdict_flips(by_seed):
    setting, control = sides(by_seed)
    assert compare(control, setting).verdict == FLIPPED[compare(setting, control).verdict]
    negative = compare({s: -v for s, v in setting.items()}, {s: -v for s, v in control.items()})
    assert negative.verdict == FLIPPED[compare(setting, control).verdict]
    assert compare(setting, control, smaller_is_better=True).verdict == negative.verdict


@settings(deadline=None)
@given(pairs, st.randoms())
def test_the_order_of_seeds_is_irrelevant(by_seed, random):
    shuffled = list(by_seed.items())
    random.shuffle(shuffled)
    assert compare(*sides(dict(shuffled))) == compare(*sides(by_seed))


@settings(deadline=None)
@given(pairs, st.integers(1, 9))
def test_more_comparisons_never_show_more(by_seed, comparisons):
    setting, control = sides(by_seed)
    few, many = compare(setting, control, comparisons), compare(setting, control, comparisons + 1)
    assert few.half_width is None or many.half_width > few.half_width
    assert many.verdict in (few.verdict, NOT_SHOWN)
