"""Intervals by bootstrap over images: against theory, by hand, and paired."""

import numpy as np
import pytest

from lit_blip2.evaluation.items import Items, check_same, interval, jackknife, paired_interval, read_items, write_items


def items(values, images=None, strata=None) -> Items:
    numbers = np.arange(len(values))
    images = numbers if images is None else np.array(images)
    return Items(np.array(values, dtype=float), images, numbers, None if strata is None else np.array(strata))


def test_an_interval_of_independent_items_is_that_of_theory():
    values = np.random.default_rng(0).random(4000) < 0.3
    low, high = interval(items(values))
    width = 1.96 * (values.mean() * (1 - values.mean()) / 4000) ** 0.5
    assert (low, high) == pytest.approx((values.mean() - width, values.mean() + width), abs=0.1 * width)


def test_items_of_an_image_stand_together():
    """Ten equal answers to an image say what one says."""
    values = np.random.default_rng(0).random(300) < 0.5
    together = interval(items(np.repeat(values, 10), np.repeat(np.arange(300), 10)))
    assert together == pytest.approx(interval(items(values)), abs=1e-12)


def test_a_mean_over_strata_is_a_mean_of_means():
    found = items([1, 0, 0, 0, 1], strata=["color", "count", "count", "count", "count"])
    assert found.value() == pytest.approx((1 + 1 / 4) / 2)
    low, high = interval(found)
    assert low < found.value() < high


def test_a_paired_difference_is_surer_than_two_intervals():
    rng = np.random.default_rng(1)
    first = rng.random(1000) < 0.5
    second = np.where(rng.random(1000) < 0.05, ~first, first)
    low, high = paired_interval(items(first), items(second))
    assert high - low < 0.5 * np.subtract(*interval(items(first))[::-1])
    assert low <= second.mean() - first.mean() <= high


def test_items_are_matched_by_id_and_another_set_is_named():
    first = items([1, 2, 3])
    turned = Items(np.array([3.5, 1.5, 2.5]), np.array([2, 0, 1]), np.array([2, 0, 1]))
    assert paired_interval(first, turned) == pytest.approx((0.5, 0.5))
    with pytest.raises(ValueError, match="1 items are in one run only, the first with id 3"):
        check_same(first, items([1, 2, 3, 4]))
    with pytest.raises(ValueError, match="other images"):
        paired_interval(first, first._replace(images=np.array([5, 6, 7])))
    with pytest.raises(ValueError, match="no items"):
        interval(items([]))


def test_pseudo_values_of_a_mean_are_its_images_values_and_of_others_agree_with_the_bootstrap():
    images, values = jackknife(items([0.5, 1, 0, 0.25], images=[7, 3, 5, 9]))
    assert images.tolist() == [3, 5, 7, 9] and values == pytest.approx([1, 0, 0.5, 0.25])
    rng = np.random.default_rng(0)
    strata = rng.choice(["count", "color", "shape"], 900)
    found = items(rng.random(900) < 0.4, rng.integers(0, 300, 900), strata)
    _, values = jackknife(found)
    low, high = interval(found)
    assert values.mean() == pytest.approx(found.value(), abs=1e-3)
    assert 2 * 1.96 * values.std(ddof=1) / len(values) ** 0.5 == pytest.approx(high - low, rel=0.08)


def test_they_are_kept(tmp_path):
    kept = {"vqa/accuracy": items([1, 0.3]), "vqa/mean_over_types": items([1, 0.3], strata=["a", "b"])}
    write_items(tmp_path / "items.npz", kept)
    found = read_items(tmp_path / "items.npz")
    assert found.keys() == kept.keys()
    for name, each in kept.items():
        for one, two in zip(each, found[name]):
            assert (one is None and two is None) or np.array_equal(one, two)
