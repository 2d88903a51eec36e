"""Main effects and interactions by hand, of whole grids and of one with a hole; results per image in a report."""

import json

import numpy as np
import pytest
from scipy import stats

from lit_blip2.ablation.folder import SweepError
from lit_blip2.ablation.report.effects import effects
from lit_blip2.ablation.report.page import report_markdown
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.report.results import metric_result
from lit_blip2.ablation.report.statistics import NO_ITEMS
from lit_blip2.evaluation.items import Items, write_items

METRIC = "vqa/accuracy"
MEANS = {("on", "on"): 0.6, ("off", "on"): 0.3, ("on", "off"): 0.55, ("off", "off"): 0.65}


@pytest.fixture
def grid(new_sweep):
    """itc x itm x llm at three seeds; both without ITC and without ITM is missing with t5, where all is .1 lower."""
    axes = {"itc": ["on", "off"], "itm": ["on", "off"], "llm": ["opt", "t5"]}
    new_sweep.plan.update(axes=axes, seeds=[0, 1, 2], metrics=[METRIC])
    new_sweep.plan["control"] = {"itc": "on", "itm": "on", "llm": "opt"}
    for (itc, itm), mean in MEANS.items():
        for llm in ("opt", "t5"):
            for seed in (0, 1, 2) if (itc, itm, llm) != ("off", "off", "t5") else ():
                labels = {"itc": itc, "itm": itm, "llm": llm}
                run = "test/" + ",".join(f"{axis}={label}" for axis, label in labels.items()) + f",seed={seed}"
                new_sweep.step(run, "test", seconds=1.0)
                name = new_sweep.cell(labels, seed, [run], {METRIC: run})
                new_sweep.ended(name, **{METRIC: mean - 0.1 * (llm == "t5") + (seed - 1) * 0.01})
    return new_sweep


def test_effects_by_hand(grid):
    main, interactions = effects(read_sweep(grid.write()), METRIC)
    assert [(each.label, each.over) for each in main] == [("itc=off", 3), ("itm=off", 3), ("llm=t5", 3)]
    # of ITC .3 - .6 with opt and with t5, .65 - .55 with opt alone
    means = [(-0.3 - 0.3 + 0.1) / 3, (-0.05 - 0.05 + 0.35) / 3, -0.1]
    assert [each.comparison.difference for each in main] == pytest.approx(means)
    both, with_t5, _ = interactions
    assert (both.label, both.at, both.over) == ("itc=off", ("itm=on", "itm=off"), 1)
    assert both.simple == (pytest.approx(-0.3), pytest.approx(0.1))
    assert both.comparison.difference == pytest.approx(0.1 + 0.3)
    assert with_t5.at == ("llm=opt", "llm=t5") and with_t5.comparison.difference == pytest.approx(0)
    # four means of three seeds, each of variance .0001 / 3, eight degrees of freedom, three in the family
    assert both.comparison.estimate.error == pytest.approx((4 * 0.0001 / 3) ** 0.5)
    half = stats.t.ppf(1 - 0.05 / 6, 8) * both.comparison.estimate.error
    assert both.comparison.half_width == pytest.approx(half)


def test_the_report_shows_them_below_the_metric(grid):
    page = report_markdown(read_sweep(grid.write()), "x", Plots())
    (line,) = [line for line in page.splitlines() if line.startswith("| `itc=off` | `itm=on`")]
    assert line.split(" | ")[2:7] == ["-0.300", "`itm=off`", "+0.100", "1", "+0.400"] and line.endswith(
        "| interaction shown |"
    )


def test_without_a_corner_there_is_no_interaction_and_no_table(grid):
    grid.plan["cells"] = [each for each in grid.plan["cells"] if list(each["labels"].values()).count("on") > 0]
    grid.plan["cells"] = [each for each in grid.plan["cells"] if each["labels"]["llm"] == "opt"]
    assert effects(read_sweep(grid.write()), METRIC) == ([], [])


def with_items(grid, name: str, values: list[float], images: list[int] | None = None) -> None:
    """The results per image of a test, whose metric is their mean."""
    numbers = np.arange(len(values))
    items = Items(np.array(values), numbers if images is None else np.array(images), numbers)
    folder = grid.folder / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.npz", {METRIC: items})
    (folder / "metrics.json").write_text(json.dumps({METRIC: float(np.mean(values))}))
    cell = next(each["name"] for each in grid.plan["cells"] if each["steps"] == [name])
    grid.ended(cell, **{METRIC: float(np.mean(values))})


@pytest.fixture
def tested(grid):
    """All opt settings with results of six images."""
    rng = np.random.default_rng(0)
    for each in grid.plan["cells"]:
        if each["labels"]["llm"] == "opt":
            with_items(grid, each["steps"][0], rng.random(6).round(2).tolist())
    grid.plan["cells"] = [each for each in grid.plan["cells"] if each["labels"]["llm"] == "opt"]
    grid.plan["axes"]["llm"] = ["opt"]
    return grid


def test_results_per_image_are_found_and_said(tested):
    read = read_sweep(tested.write())
    result = metric_result(read, METRIC)
    assert [each.estimate.images for each in result.compared] == [6, 6, 6]
    first, second = read.runs(read.settings["itc=on,itm=on,llm=opt"], METRIC), result.control.values
    assert first.images.values.mean(1) == pytest.approx(list(second.values()))
    page = report_markdown(read, "x", Plots())
    assert page.count("The intervals are over seeds and 6 images.") == 3  # of settings, and of both families


def test_a_setting_without_results_per_image_has_no_interval(tested):
    for seed in (1, 2):
        (tested.folder / f"runs/test/itc=off,itm=on,llm=opt,seed={seed}/items.npz").unlink()
    found = {each.setting: each for each in metric_result(read_sweep(tested.write()), METRIC).settings}
    assert found["itc=off,itm=on,llm=opt"].comparison.verdict == NO_ITEMS
    assert found["itc=off,itm=on,llm=opt"].comparison.half_width is None
    assert found["itc=on,itm=off,llm=opt"].comparison.estimate.images == 6


def test_one_cell_s_results_may_be_missing(tested):
    (tested.folder / "runs/test/itc=off,itm=on,llm=opt,seed=1/items.npz").unlink()
    read = read_sweep(tested.write())
    found = metric_result(read, METRIC).compared
    assert [each.estimate.images for each in found] == [None, 6, 6]
    assert "some runs have them, others have not" in report_markdown(read, "x", Plots())


def test_results_of_another_test_are_not_taken(tested):
    for seed in (1, 2):
        file = tested.folder / f"runs/test/itc=on,itm=off,llm=opt,seed={seed}/metrics.json"
        file.write_text(json.dumps({METRIC: 0.123}))
    assert NO_ITEMS in [each.verdict for each in metric_result(read_sweep(tested.write()), METRIC).compared]


def test_damaged_results_per_image_are_named(tested):
    tested.put("runs/test/itc=on,itm=on,llm=opt,seed=0/items.npz", "x")
    with pytest.raises(SweepError, match=r"items\.npz"):
        read_sweep(tested.write())
