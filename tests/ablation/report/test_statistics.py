"""Contrasts and families against hand-worked cases, printed tables, SciPy's Welch test, and simulated sweeps.

Legend: D draws, N seeds, R runs of a setting, G images.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_blip2.ablation.report.images import OTHER_IMAGES, PerImage, image_variance
from lit_blip2.ablation.report.statistics import (
    BETTER,
    NO_ITEMS,
    NO_SPREAD,
    NOT_SHOWN,
    TOO_FEW,
    WORSE,
    Comparison,
    Estimate,
    Runs,
    Summary,
    contrast,
    decide,
    holm,
    p_value,
    summarise,
    t_quantile,
)
from lit_blip2.ablation.spec.values import smaller_is_better

FLIPPED = {BETTER: WORSE, WORSE: BETTER, NOT_SHOWN: NOT_SHOWN, NO_SPREAD: NO_SPREAD, TOO_FEW: TOO_FEW}
thousandths = st.integers(-1000, 1000).map(lambda n: n / 1000)
values = st.lists(thousandths, min_size=2, max_size=8)


def runs(*values: float, images: PerImage | None = None) -> Runs:
    return Runs(dict(enumerate(values)), images)


def compare(first: Runs, second: Runs, comparisons: int = 1, smaller_is_better: bool = False) -> Comparison:
    return decide([contrast([first, second])], comparisons, smaller_is_better)[0]


def test_summaries_by_hand():
    assert summarise([]) == Summary(0, None, None)
    assert summarise([0.25]) == Summary(1, 0.25, None)
    assert summarise([2.0, 4.0, 6.0]) == Summary(3, 4.0, 2.0)
    with pytest.raises(ValueError, match="nan has no mean"):
        summarise([0.5, math.nan])


@pytest.mark.parametrize(
    ("df", "comparisons", "level", "printed"),
    [  # two-sided, from printed tables of Student's t
        (1, 1, 0.95, 12.706),
        (2, 1, 0.95, 4.303),
        (4, 1, 0.95, 2.776),
        (10, 1, 0.95, 2.228),
        (2, 5, 0.95, 9.925),  # 5 comparisons at 95 % are each at 99 %
        (5, 5, 0.95, 4.032),
        (4, 1, 0.99, 4.604),
        (2, 2, 0.95, 6.205),
    ],
)
def test_quantiles_as_printed(df, comparisons, level, printed):
    assert t_quantile(df, comparisons, level) == pytest.approx(printed, abs=6e-4)


def test_quantiles_refuse_what_has_none():
    for arguments in ((0, 1), (3, 0), (3, 1, 1.0)):
        with pytest.raises(ValueError, match="are needed"):
            t_quantile(*arguments)


def test_a_comparison_by_hand():
    # means .7 and .5, variances .01 and .01 of 3 and of 2: .01 / 3 + .01 / 2 = .025 / 3; df = .000069444 / .000030556
    control, setting = runs(0.5 - 0.1 / 2**0.5, 0.5 + 0.1 / 2**0.5), runs(0.6, 0.7, 0.8)
    estimate = contrast([setting, control])
    assert (estimate.seeds, estimate.difference) == ((3, 2), pytest.approx(0.2))
    assert estimate.error == pytest.approx((0.025 / 3) ** 0.5) and estimate.df == pytest.approx(25 / 11)
    found = compare(setting, control)
    assert found.verdict == NOT_SHOWN and found.half_width == pytest.approx(
        stats.t.ppf(0.975, 25 / 11) * estimate.error
    )
    # two points more clear it; for a loss more is worse; forty comparisons ask for more
    setting = runs(1.1, 1.2, 1.3)
    assert compare(setting, control).verdict == BETTER
    assert compare(setting, control, smaller_is_better=True).verdict == WORSE
    assert compare(setting, control, comparisons=40).verdict == NOT_SHOWN


def test_weights_make_a_contrast():
    # an interaction: (4 - 2) - (3 - 2) = 1, each mean of two seeds .2 apart, of variance .02 / 2
    cells = [runs(mean - 0.1, mean + 0.1) for mean in (4, 2, 3, 2)]
    found = contrast(cells, [1, -1, -1, 1])
    assert (found.difference, found.error, found.df) == (pytest.approx(1), pytest.approx(0.2), pytest.approx(4))


@pytest.mark.parametrize(
    ("setting", "control", "seeds", "difference"),
    [((), (), (0, 0), None), ((0.5,), (), (1, 0), None), ((0.5,), (0.25, 0.75), (1, 2), 0.0)],
)
def test_fewer_than_two_seeds_are_too_few(setting, control, seeds, difference):
    found = compare(runs(*setting), runs(*control))
    assert (found.estimate.seeds, found.difference, found.half_width) == (seeds, difference, None)
    assert (found.verdict, found.p, found.detectable) == (TOO_FEW, None, None)


def test_seeds_that_all_agree_give_no_interval():
    same = runs(0.1 + 0.2, 0.3, 0.3)  # to rounding
    assert compare(same, runs(0.3, 0.3)).verdict == NOT_SHOWN
    shifted = compare(runs(0.4, 0.4), same)
    assert (shifted.half_width, shifted.verdict) == (None, NO_SPREAD)
    assert shifted.difference == pytest.approx(0.1)
    one_side = contrast([runs(0.4, 0.4), runs(0.2, 0.4, 0.3)])  # all that varies is the second
    assert one_side.df == pytest.approx(2) and one_side.error == pytest.approx(0.1 / 3**0.5)


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


@pytest.mark.filterwarnings("ignore:Precision loss")
@settings(deadline=None)
@given(values, values, st.integers(1, 10))
def test_scipy_agrees(setting, control, comparisons):
    found = compare(runs(*setting), runs(*control), comparisons)
    assume(found.half_width is not None)
    test = stats.ttest_ind(setting, control, equal_var=False)
    interval = test.confidence_interval(1 - 0.05 / comparisons)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)
    assert found.estimate.df == pytest.approx(test.df) and found.p == pytest.approx(min(1, comparisons * test.pvalue))
    power = stats.t.ppf(0.8, test.df) * found.estimate.error
    assert found.detectable == pytest.approx(interval.high - found.difference + power, rel=1e-9, abs=1e-9)
    limit = 0.05 / comparisons
    assume(abs(test.pvalue - limit) > 1e-9)
    assert (found.verdict in (BETTER, WORSE)) == (test.pvalue < limit)


@settings(deadline=None)
@given(values, values)
def test_the_other_way_round_the_verdict_flips(setting, control):
    setting, control = runs(*setting), runs(*control)
    assert compare(control, setting).verdict == FLIPPED[compare(setting, control).verdict]
    assert compare(setting, control, smaller_is_better=True).verdict == FLIPPED[compare(setting, control).verdict]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_agrees_with_its_definition(p):
    """The k-th smallest is shown where every smaller one is below level / (m - k + 1) as well."""
    adjusted = holm(p, len(p))
    for level in (0.01, 0.05, 0.3):
        order, shown = sorted(range(len(p)), key=p.__getitem__), set()
        for k, place in enumerate(order):
            if p[place] * (len(p) - k) >= level:
                break
            shown.add(place)
        assert shown == {place for place in order if adjusted[place] < level}


def test_holm_by_hand_and_with_some_to_come():
    assert holm([0.04, 0.01, 0.03], 3) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.04, None, 0.01], 4) == [pytest.approx(0.12), None, pytest.approx(0.04)]


def test_a_family_shows_by_holm_and_its_intervals_are_bonferroni_s():
    first, second = Estimate((9, 9), 0.4, 0.1, 16), Estimate((9, 9), -0.24, 0.1, 16)
    found = decide([first, second], smaller_is_better=[False, True])
    assert [each.verdict for each in found] == [BETTER, BETTER]
    assert found[1].interval == pytest.approx((-0.24 - 0.1 * stats.t.ppf(0.9875, 16), -0.24 + 0.1 * 2.4729), abs=1e-4)
    assert found[1].p == pytest.approx(p_value(second)) and found[0].p == pytest.approx(2 * p_value(first))


def per_image(*rows, ids=None) -> PerImage:
    values_RG = np.array(rows, dtype=float)
    return PerImage(np.arange(values_RG.shape[1]) if ids is None else np.array(ids), values_RG)


def test_the_variance_by_images_by_hand():
    # means over runs (1, 3, 5) and (1, 1, 1): d = (0, 2, 4), variance 4; the runs of the first differ by 1 everywhere,
    # those of the second by image: (2, 0, 1) and (0, 2, 1), rests (1, -1, 0) and the other way round, MS = 4 / 2
    first, second = per_image((0.5, 2.5, 4.5), (1.5, 3.5, 5.5)), per_image((2, 0, 1), (0, 2, 1))
    assert (first.noise, second.noise) == (pytest.approx(0), pytest.approx(2))
    assert image_variance([first, second], [1, -1]) == pytest.approx((4 - 2 / 2) / 3)
    assert image_variance([second, second], [1, -1]) == 0.0  # never below
    found = contrast([runs(2.5, 3.5, images=first), runs(0.5, 1.5, images=second)])
    assert (found.images, found.error) == (3, pytest.approx((0.25 + 0.25 + 1) ** 0.5))
    assert found.df == pytest.approx(1.5**2 / (0.25**2 + 0.25**2 + 1 / 2))


def test_images_of_some_settings_alone_give_no_interval():
    known = per_image((0.5, 0.7), (0.5, 0.6))
    for other, why in ((None, NO_ITEMS), (per_image((1, 2), (2, 1), ids=[5, 6]), OTHER_IMAGES)):
        found = compare(runs(0.6, 0.55, images=known), runs(1.5, 1.6, images=other))
        assert (found.verdict, found.half_width, found.p) == (why, None, None)


DRAWS, SPREADS = 3000, (1, 2, 4, 10)
WELCH = 0.008  # by how much Satterthwaite's approximation itself may be off


def shares(estimates: list[Estimate], truth: float, level: float = 0.95) -> float:
    """Of intervals that hold the truth."""
    found, error, df = np.array([(each.difference, each.error, each.df) for each in estimates]).T
    return float((2 * stats.t.sf(np.abs(found - truth) / error, df) >= 1 - level).mean())


def margin(level: float, draws: int) -> float:
    """How far a share of so many draws may lie from its expectation: three standard deviations of a binomial."""
    return 3 * math.sqrt(level * (1 - level) / draws)


@pytest.mark.parametrize("n", [5, 8])
@pytest.mark.parametrize("spread", SPREADS)
def test_intervals_hold_what_they_promise_over_seeds(n, spread):
    """Of a difference and of an interaction; spreads equal to tenfold. False positives are one less the coverage."""
    rng = np.random.default_rng([n, spread])
    drawn_DSN = rng.normal(size=(DRAWS, 4, n)) * np.array([1, spread, 1, spread])[:, None] + 0.3
    cells = [[runs(*values_N) for values_N in values_SN.tolist()] for values_SN in drawn_DSN]
    two, four = ([contrast(each[:k], weights) for each in cells] for k, weights in ((2, [1, -1]), (4, [1, -1, -1, 1])))
    for found in (two, four):
        for level in (0.95, 0.99):
            assert abs(shares(found, 0.0, level) - level) < margin(level, DRAWS) + 0.008, (
                level,
                shares(found, 0.0, level),
            )


@pytest.mark.parametrize("n", [5, 8])
def test_a_family_seldom_shows_what_is_not_there(n):
    """Five settings against one control, tenfold spreads: how often Holm's p shows any difference."""
    rng, spreads = np.random.default_rng(n), [1, 1, 3, 3, 10, 10]
    false = 0
    for _ in range(draws := 1000):
        control, *others = [runs(*rng.normal(scale=scale, size=n)) for scale in spreads]
        false += any(each.verdict != NOT_SHOWN for each in decide([contrast([other, control]) for other in others]))
    assert false / draws < 0.05 + margin(0.05, draws)


@pytest.mark.parametrize("n", [5, 8])
@pytest.mark.parametrize("spread", [1, 10])
@pytest.mark.parametrize("by_image", [0.0, 0.3, 3.0])
def test_intervals_hold_what_they_promise_over_seeds_and_images(n, spread, by_image):
    """The truth is the difference in all images. by_image: deviation of an image's own difference, of the seeds'."""
    images, draws = 40, 1000
    rng = np.random.default_rng([n, spread, int(10 * by_image)])
    own_DG = rng.normal(scale=by_image * images**0.5, size=(draws, images))
    sides = []
    for scale in (1, spread):
        of_run_DR = rng.normal(scale=scale, size=(draws, n, 1))
        rest_DRG = rng.normal(scale=2, size=(draws, n, images))
        sides.append(of_run_DR + rest_DRG)
    sides[0] = sides[0] + own_DG[:, None]
    found = []
    for pair in zip(*sides):
        settings = [runs(*values_RG.mean(1).tolist(), images=per_image(*values_RG)) for values_RG in pair]
        found.append(contrast(settings))
    assert all(each.images == images for each in found)
    coverage = shares(found, 0.0)
    assert 0.95 - margin(0.95, draws) - 0.005 < coverage < 0.985, coverage
    if (by_image, spread) == (3, 1):  # over seeds alone the interval would be far too narrow
        alone = [contrast([runs(*values_RG.mean(1).tolist()) for values_RG in pair]) for pair in zip(*sides)]
        assert shares(alone, 0.0) < 0.7
