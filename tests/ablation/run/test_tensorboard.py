"""What TensorBoard's own reader finds in a cell's events: its row, its final metrics, its curves, the page's layout;
and what TensorBoard serves of a sweep to its pages, with which they draw their tables and charts."""

import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from lit_blip2.ablation.run.tensorboard import layout, write_cell
from lit_blip2.ablation.schema import Cell
from lit_blip2.ablation.spec.grid import Range

CONTROL, WITHOUT_ITC, FAILED = "itc=on,itm=on,seed=0", "itc=off,itm=on,seed=0", "itc=on,itm=off,seed=0"


@pytest.fixture
def sweep(new_tensorboard_sweep, tmp_path):
    return new_tensorboard_sweep(tmp_path / "sweep")


def read(sweep, cell: str) -> EventAccumulator:
    return EventAccumulator(str(sweep.run(cell))).Reload()


def curves(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def row(events: EventAccumulator) -> tuple[api_pb2.Experiment, dict[str, str | float], int]:
    """The table's columns, this run's settings, and its status."""
    contents = events.PluginTagToContent("hparams")

    def data(tag: str) -> plugin_data_pb2.HParamsPluginData:
        return plugin_data_pb2.HParamsPluginData.FromString(contents[tag])

    start = data(metadata.SESSION_START_INFO_TAG).session_start_info
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    return (
        data(metadata.EXPERIMENT_TAG).experiment,
        settings,
        data(metadata.SESSION_END_INFO_TAG).session_end_info.status,
    )


def charts(events: EventAccumulator) -> dict[str, list[str]]:
    """Chart -> its patterns, of the one category that the layout has."""
    (event,) = events.Tensors("custom_scalars__config__")
    (category,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
    assert category.title == "objectives"
    return {chart.title: list(chart.multiline.tag) for chart in category.chart}


def test_a_cell_has_its_final_figures_and_each_step_its_curves(sweep):
    sweep.three_cells()
    assert curves(read(sweep, CONTROL)) == {
        "final/vqa/accuracy": [(0, 0.625)],
        "final/retrieval/itc_txt_r1": [(0, 0.875)],
        "stage1/retrieval/itc_txt_r1": [(100, 0.5), (200, 0.75), (300, 0.875)],
        "stage1/loss/total": [(100, 3.0), (200, 1.5), (300, 1.0)],
        "stage2/vqa/accuracy": [(100, 0.25), (200, 0.375), (300, 0.625)],
        "stage2/loss/total": [(100, 3.0), (200, 1.5), (300, 1.0)],
    }


def test_a_row_has_the_labels_and_each_column_the_words_that_it_may_hold(sweep):
    sweep.three_cells()
    columns, settings, status = row(read(sweep, CONTROL))
    assert settings == {"itc": "on", "itm": "on", "seed": "0", "state": "done"}
    assert status == api_pb2.STATUS_SUCCESS
    assert {each.name: list(each.domain_discrete) for each in columns.hparam_infos} == {
        "itc": ["on", "off"],
        "itm": ["on", "off"],
        "seed": ["0"],
        "state": ["done", "failed", "pruned"],
    }
    assert [each.name.tag for each in columns.metric_infos] == ["final/vqa/accuracy", "final/retrieval/itc_txt_r1"]


def test_every_row_has_the_same_columns(sweep):
    sweep.three_cells()
    (first, *others) = [row(read(sweep, cell))[0] for cell in (CONTROL, WITHOUT_ITC, FAILED)]
    assert others == [first, first]


def test_a_failed_cell_has_a_row_and_the_curves_so_far_and_no_figures(sweep):
    sweep.three_cells()
    events = read(sweep, FAILED)
    _, settings, status = row(events)
    assert settings == {"itc": "on", "itm": "off", "seed": "0", "state": "failed"}
    assert status == api_pb2.STATUS_FAILURE
    found = curves(events)
    assert not [tag for tag in found if tag.startswith("final/")]
    assert found["stage2/vqa/accuracy"] == [(100, 0.25), (200, 0.375)]


def test_a_cell_that_failed_before_any_validation_has_its_row(sweep):
    cell = sweep.cell("on", "on", {}, "failed")
    events = read(sweep, cell)
    assert row(events)[1]["state"] == "failed"
    assert curves(events) == {} and "custom_scalars__config__" not in events.Tags()["tensors"]


def test_a_metric_that_the_cell_cannot_have_is_absent_not_zero(sweep):
    sweep.three_cells()
    events = read(sweep, WITHOUT_ITC)
    assert {tag for tag in curves(events) if tag.startswith("final/")} == {"final/vqa/accuracy"}
    assert charts(events) == {"vqa/accuracy": ["^(stage1|stage2)/vqa/accuracy$"]}


def test_figures_that_are_not_finite_are_gaps_of_a_curve_and_no_final_figure(sweep):
    points = [{"step": 1, sweep.vqa: 0.5}, {"step": 2, sweep.vqa: None}, {"step": 3, sweep.vqa: math.inf}]
    points += [{"step": 4, sweep.vqa: math.nan}, {"step": 5, sweep.vqa: 0.75}]
    cell = sweep.cell("on", "on", {"stage2": points}, metrics={sweep.vqa: math.nan, sweep.retrieval: None})
    found = curves(read(sweep, cell))
    assert set(found) == {"stage2/vqa/accuracy"}
    assert [step for step, _ in found["stage2/vqa/accuracy"]] == [1, 2, 3, 4, 5]
    values = [value for _, value in found["stage2/vqa/accuracy"]]
    assert values[0] == 0.5 and math.isnan(values[1]) and values[2] == math.inf and math.isnan(values[3])
    assert values[4] == 0.75


def test_lines_that_a_killed_process_left_are_passed_over(sweep):
    sweep.files.put(
        "runs/stage2/itc=on,itm=on,seed=0/validation.jsonl",
        '{"step": 1, "vqa/accuracy": 0.5}\n{"step": 2, "vqa/ac\n{"vqa/accuracy": 1.0}\n7\n{"step": 3, "vqa/accu',
    )
    cell = sweep.cell("on", "on", {}, "failed")
    assert curves(read(sweep, cell)) == {"stage2/vqa/accuracy": [(1, 0.5)]}


def test_a_cell_written_again_has_one_row_its_newest(sweep):
    sweep.cell("on", "on", {"stage2": [{"step": 1, sweep.vqa: 0.1}]}, "failed")
    cell = sweep.cell("on", "on", {"stage2": [{"step": 2, sweep.vqa: 0.5}]}, metrics={sweep.vqa: 0.5})
    assert len(list(sweep.run(cell).iterdir())) == 1
    events = read(sweep, cell)
    assert row(events)[1]["state"] == "done" and row(events)[2] == api_pb2.STATUS_SUCCESS
    assert curves(events) == {"final/vqa/accuracy": [(0, 0.5)], "stage2/vqa/accuracy": [(2, 0.5)]}


def test_cells_ask_for_the_same_chart_so_that_their_curves_meet_in_it(sweep):
    sweep.three_cells()
    both = {metric: [f"^(stage1|stage2)/{metric}$"] for metric in (sweep.vqa, sweep.retrieval)}
    assert charts(read(sweep, CONTROL)) == charts(read(sweep, FAILED)) == both


def test_a_chart_takes_its_own_metric_only(sweep):
    sweep.grid.metrics[0] = "vqa/top.5+"
    ((pattern,),) = (patterns for _, patterns in layout(sweep.grid, ["vqa/top.5+"])["objectives"].values())
    tags = ["stage1/vqa/top.5+", "stage2/vqa/top.5+", "final/vqa/top.5+", "stage1/vqa/topX5+", "stage1/vqa/top.5+_b"]
    assert [tag for tag in tags if re.match(pattern, tag)] == tags[:2]


def test_the_settings_of_a_search_are_numbers(sweep):
    lr = Range(key="stage1.model.lr", low=1e-4, high=1e-2, log=True)
    sweep.grid.axes, sweep.grid.ranges = {"itc": {"on": {}}}, {"lr": lr}
    cell = Cell(name="trial-0", labels={"itc": "on", "lr": "0.003"}, seed=0, steps=[], metrics={})
    write_cell(sweep.folder, sweep.grid, cell, "pruned", {})
    columns, settings, _ = row(read(sweep, "trial-0"))
    assert settings == {"itc": "on", "lr": 0.003, "seed": "0", "state": "pruned"}
    assert {each.name: each.type for each in columns.hparam_infos}["lr"] == api_pb2.DATA_TYPE_FLOAT64


@pytest.fixture(scope="module")
def serve(new_tensorboard_sweep, tmp_path_factory) -> Callable[..., Any]:
    """What a TensorBoard in this process answers, once it has read every run of the three cells."""
    sweep = new_tensorboard_sweep(tmp_path_factory.mktemp("tensorboard") / "sweep").three_cells()
    server = program.TensorBoard()
    server.configure(logdir=str(sweep / "tensorboard"), port=0, host="127.0.0.1", load_fast="false", reload_interval=0)
    address = server.launch()

    def answer(path: str, body: dict | None = None, **query: str) -> Any:
        url = f"{address}data/plugin/{path}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as stream:
            return json.load(stream)

    deadline = time.monotonic() + 120
    while {run: len(tags) for run, tags in answer("scalars/tags").items()} != {CONTROL: 6, WITHOUT_ITC: 4, FAILED: 4}:
        assert time.monotonic() < deadline, answer("scalars/tags")
        time.sleep(0.1)
    return answer


def rows(serve, statuses: tuple[str, ...] = ("SUCCESS", "FAILURE"), **words: list[str]) -> dict[str, list]:
    """The table of HParams: by cell its settings, then its metrics. words: those of a column that are ticked."""
    experiment = serve("hparams/experiment", {"experimentName": ""})
    columns = [
        {"hparam": each["name"]} | ({"filterDiscrete": words[each["name"]]} if each["name"] in words else {})
        for each in experiment["hparamInfos"]
    ]
    columns += [{"metric": each["name"]} for each in experiment["metricInfos"]]
    asked = {"experimentName": "", "colParams": columns, "startIndex": 0, "sliceSize": 100}
    answer = serve("hparams/session_groups", asked | {"allowedStatuses": [f"STATUS_{each}" for each in statuses]})
    axes = ("itc", "itm", "seed", "state")
    tags = [each["name"]["tag"] for each in experiment["metricInfos"]]
    return {
        group["name"]: [*(group["hparams"][axis] for axis in axes), *(metrics(group).get(tag) for tag in tags)]
        for group in answer["sessionGroups"]
    }


def metrics(group: dict) -> dict[str, float]:
    return {each["name"]["tag"]: each["value"] for each in group["metricValues"]}


def test_the_table_of_hparams_has_a_row_for_every_cell(serve):
    control, without_itc = ["on", "on", "0", "done", 0.625, 0.875], ["off", "on", "0", "done", 0.5, None]
    failed = ["on", "off", "0", "failed", None, None]
    assert rows(serve) == {WITHOUT_ITC: without_itc, FAILED: failed, CONTROL: control}
    assert rows(serve, ("SUCCESS",), itc=["on"]) == {CONTROL: control}


def test_parallel_coordinates_have_a_line_for_every_finished_cell(serve):
    """They draw the cells that have every metric ticked."""
    assert [cell for cell, row in rows(serve).items() if None not in row] == [CONTROL]
    assert {cell for cell, row in rows(serve).items() if row[4] is not None} == {CONTROL, WITHOUT_ITC}


def test_custom_scalars_overlay_the_cells_in_one_chart_per_metric(serve):
    (category,) = serve("custom_scalars/layout")["category"]
    assert category["title"] == "objectives"
    found = {chart["title"]: matches(serve, *chart["multiline"]["tag"]) for chart in category["chart"]}
    assert found == {
        "vqa/accuracy": {f"stage2/vqa/accuracy of {cell}" for cell in (CONTROL, WITHOUT_ITC, FAILED)},
        "retrieval/itc_txt_r1": {f"stage1/retrieval/itc_txt_r1 of {cell}" for cell in (CONTROL, FAILED)},
    }


def matches(serve, pattern: str) -> set[str]:
    """The curves that a chart with this pattern draws."""
    answers = {run: serve("custom_scalars/scalars", run=run, tag=pattern) for run in (CONTROL, WITHOUT_ITC, FAILED)}
    return {f"{tag} of {run}" for run, answer in answers.items() for tag in answer["tag_to_events"]}
