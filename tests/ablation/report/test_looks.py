"""Colours of settings: one for each, through a whole report, and apart for every eye; baselines as lines."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lit_blip2.ablation.report.baselines import Baseline, baselines
from lit_blip2.ablation.report.curves import Curve, curves, tracks
from lit_blip2.ablation.report.html import ON_DARK, ON_LIGHT, to_html
from lit_blip2.ablation.report.plots.curves import curve_figure, forgetting_figure
from lit_blip2.ablation.report.plots.looks import MOST, Look, looks
from lit_blip2.ablation.report.plots.metric import metric_figure, overview_figure
from lit_blip2.ablation.report.plots.paper import DARK, LIGHT
from lit_blip2.ablation.report.plots.reference import near
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.report.results import metric_result

VQA = "vqa/mean_over_types"
# From linear RGB to what an eye without one of its three kinds of cones sees: Machado, Oliveira and Fernandes, IEEE
# Transactions on Visualization and Computer Graphics 15, 2009.
EYES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
APART = 14.0  # CIE76; 2.3 is what an eye just sees


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("paper", [LIGHT, DARK], ids=["light", "dark"])
def test_every_eye_tells_the_colours_apart(paper, eye):
    seen = {colour: lab(np.array(EYES[eye]) @ linear(colour)) for colour in (paper.ink, *paper.colours)}
    near = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
    assert min(near.values()) > APART, min(near, key=near.get)
    assert len(paper.colours) == MOST


def test_verdicts_have_no_colour_of_a_setting():
    for paper, grounds in ((LIGHT, ON_LIGHT), (DARK, ON_DARK)):
        assert not {grounds["better"], grounds["worse"]} & {*paper.colours, paper.ink}


def test_each_setting_has_a_look_and_the_control_the_ink(sweep):
    found = looks(read_sweep(sweep.write()))
    assert list(found) == ["itc=on,bridge=on", "itc=off,bridge=on", "itc=on,bridge=off", "itc=off,bridge=off"]
    assert [each.colour for each in found.values()] == [None, 0, 1, 2]
    assert len({each.marker for each in found.values()}) == 4 and LIGHT.colour(found["itc=on,bridge=on"]) == LIGHT.ink


def test_more_settings_than_colours_share_that_of_their_first_label(new_sweep):
    for llm, queries in itertools.product(("opt", "t5"), range(6)):
        new_sweep.cell({"llm": llm, "queries": str(queries)}, 0, [], {})
    new_sweep.plan.update(axes={"llm": ["opt", "t5"]}, control={"llm": "opt", "queries": "0"})
    control, *others = looks(read_sweep(new_sweep.write())).values()
    assert control.colour is None and [each.of for each in others] == ["llm=opt"] * 5 + ["llm=t5"] * 6
    assert len(set(others)) == 2


def test_a_long_axis_has_a_look_for_each_label(new_sweep):
    for queries in range(20):
        new_sweep.cell({"queries": str(queries)}, 0, [], {})
    new_sweep.plan.update(axes={"queries": [str(n) for n in range(20)]})
    found = looks(read_sweep(new_sweep.write())).values()
    assert len({(each.colour, each.marker) for each in found}) == 20


def test_a_setting_has_its_colour_in_every_plot_and_table(sweep):
    read = read_sweep(sweep.write())
    look, result = looks(read), metric_result(read, VQA)
    colour = LIGHT.colours[0]  # of itc=off,bridge=on
    lines, both = curves(read, "stage2", VQA), (curves(read, "stage2", VQA), tracks(read, "stage2", VQA))
    figures = [overview_figure(LIGHT, [(result, [])], look), metric_figure(LIGHT, result, look, [])]
    figures += [curve_figure(LIGHT, lines, VQA, look, []), forgetting_figure(LIGHT, *both, VQA, look, [])]
    for figure in figures:
        for axes in figure.axes:
            drawn = [line for line in axes.lines if to_hex(line.get_color()) == colour]
            assert any(line.get_marker() == look["itc=off,bridge=on"].marker for line in drawn)
    page = to_html("| a |\n| --- |\n| `itc=off,bridge=on` |", "x", {}, look)
    mark = re.search(r'<td><code class="(.*)">itc=off,<wbr>bridge=on</code>', page)[1]
    place = re.search(rf"code\.{mark}::before {{ content: \"■\"; color: var\(--(.*)\); }}", page)[1]
    assert f"--{place}: {colour};" in page and f"--{place}: {DARK.colours[0]};" in page


def test_verdicts_are_written_beside_their_intervals(sweep):
    read = read_sweep(sweep.write())
    figure = metric_figure(LIGHT, metric_result(read, VQA), looks(read), [])
    assert [text.get_text() for text in figure.axes[1].texts] == ["worse", "no difference shown", "too few seeds"]


def test_what_is_answered_without_the_image_is_a_line(new_sweep):
    one = new_sweep.cell({"stage1": "on"}, 0, [], {})
    new_sweep.ended(one, **{"vqa/no_image": 0.3, "llm/text_qa": 0.9, VQA: 0.6})
    new_sweep.ended(new_sweep.cell({"stage1": "on"}, 1, [], {}), **{"vqa/no_image": 0.4, "loss/lm": 1.0})
    new_sweep.cell({"stage1": "off"}, 0, [], {})
    read = read_sweep(new_sweep.write())
    blind, text = baselines(read, VQA)
    assert blind.values == {"stage1=on": pytest.approx(0.35)} and text.values == {"stage1=on": 0.9}
    assert not baselines(read, "caption/cider")
    drawn = [Curve("stage1=on", "stage1=on", [1, 2], [0.5, 0.6], [None, None], 1)]
    with_line, without = (curve_figure(LIGHT, drawn, VQA, looks(read), each) for each in ([blind, text], []))
    assert list(with_line.axes[0].lines[-1].get_ydata()) == [0.35, 0.35]
    assert len(with_line.axes[0].lines) == 2 and len(without.axes[0].lines) == 1
    told = [each.get_text() for each in with_line.legends[0].get_texts()]
    assert told[1:] == ["without the image: 0.350", "language model reading a description: 0.900 (outside)"]


def test_a_baseline_far_from_the_data_is_not_drawn():
    below, above = (Baseline("chance", {"a": value}) for value in (0.3, 0.8))
    assert near([below, above], [0.5, 0.4]) == [below]  # wide as .45 of .5
    assert near([below, above], [0.2, 0.55]) == [below, above]


def test_settings_of_two_language_models_have_baselines_of_their_own(sweep):
    read = read_sweep(sweep.write())
    both = Baseline("without the image", {"itc=on,bridge=on": 0.5, "itc=off,bridge=on": 0.4})
    assert not both.is_one and Baseline("chance", {"a": 0.35002, "b": 0.35}).is_one
    figure = metric_figure(LIGHT, metric_result(read, VQA), looks(read), [both])
    pieces = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert pieces == [[[0.5, -0.5], [0.5, 0.5]], [[0.4, 0.5], [0.4, 1.5]]]
    lines = curve_figure(LIGHT, curves(read, "stage2", VQA), VQA, looks(read), [both]).axes[0].lines[-2:]
    assert [(line.get_ydata()[0], line.get_color()) for line in lines] == [(0.5, LIGHT.ink), (0.4, LIGHT.colours[0])]


def test_chance_is_known_of_binding_and_measured_of_probes(new_sweep):
    name = new_sweep.cell({"itc": "on"}, 0, [], {})
    new_sweep.ended(name, **{"probe/queries": 0.8, "probe/queries_chance": 0.52, "binding/itc_accuracy": 0.9})
    read = read_sweep(new_sweep.write())
    assert baselines(read, "probe/queries") == [Baseline("chance", {"itc=on": 0.52})]
    assert baselines(read, "binding/itc_accuracy") == [Baseline("chance", {"itc=on": 0.5})]


def test_many_lines_are_coloured_by_the_first_axis():
    look = {f"{n}": Look(n % 2, "s", f"llm={n % 2}") for n in range(MOST + 2)}
    lines = [Curve(name, name, [1, 2], [0.1, 0.2], [0.1, 0.1], 2) for name in look]
    figure = curve_figure(LIGHT, lines, VQA, look, [])
    assert [each.get_text() for each in figure.legends[0].get_texts()] == ["llm=0", "llm=1"]
    assert not figure.axes[0].collections
