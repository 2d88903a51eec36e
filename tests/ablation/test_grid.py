"""Ablation files: cells in order, what each overrides, and every mistake in a file named at once."""

import re
from pathlib import Path

import pytest
import yaml

from lit_blip2.ablation.grid import read_grid

CHAIN = {
    "stage1": {"fit": "experiments/mini_stage1.yaml", "set": {"trainer.max_steps": 4}},
    "stage2": {"fit": "experiments/mini_opt.yaml", "set": {"model.init_from": "$stage1"}},
    "vqa": {"test": "stage2"},
}
GOOD = {
    "steps": CHAIN,
    "axes": {
        "itc": {True: {}, False: {"stage1.model.net.itc": None}},
        "queries": {1: {"stage1.model.net.qformer.num_queries": 1}, 8: {}},
    },
    "control": {"itc": True, "queries": 8},
    "seeds": [0, 1],
    "metrics": ["vqa/mean_over_types"],
}


def grid_of(tmp_path, **changes):
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump(GOOD | changes, sort_keys=False))
    return read_grid(file)


def problems_of(tmp_path, **changes) -> str:
    with pytest.raises(ValueError) as error:
        grid_of(tmp_path, **changes)
    return str(error.value)


def test_a_product_varies_the_seed_fastest(tmp_path):
    assert [cell.name for cell in grid_of(tmp_path).cells()] == [
        "itc=on,queries=1,seed=0", "itc=on,queries=1,seed=1", "itc=on,queries=8,seed=0", "itc=on,queries=8,seed=1",
        "itc=off,queries=1,seed=0", "itc=off,queries=1,seed=1", "itc=off,queries=8,seed=0", "itc=off,queries=8,seed=1",
    ]  # fmt: skip


def test_one_factor_at_a_time_is_the_control_and_its_neighbours(tmp_path):
    cells = grid_of(tmp_path, vary="one", seeds=[3]).cells()
    assert [cell.name for cell in cells] == [
        "itc=on,queries=1,seed=3",
        "itc=on,queries=8,seed=3",
        "itc=off,queries=8,seed=3",
    ]


def test_cells_are_left_out(tmp_path):
    cells = grid_of(tmp_path, without=[{"itc": False, "queries": 1}], seeds=[0]).cells()
    assert len(cells) == 3 and {"itc": "off", "queries": "1"} not in [cell.labels for cell in cells]


def test_overrides_are_the_step_s_own_and_the_labels_on_top(tmp_path):
    grid = grid_of(tmp_path, axes=GOOD["axes"] | {"queries": {1: {"stage1.trainer.max_steps": 9}, 8: {}}})
    assert grid.overrides({"itc": "off", "queries": "1"}, "stage1") == {"trainer.max_steps": 9, "model.net.itc": None}
    assert grid.overrides({"itc": "off", "queries": "1"}, "stage2") == {"model.init_from": "$stage1"}


def test_bare_on_and_off_stay_words(tmp_path):
    file = tmp_path / "trial.yaml"
    text = "axes: {itc: {on: {}, off: {stage1.model.net.itc: null}}}\ncontrol: {itc: on}\n"
    file.write_text(yaml.safe_dump({k: v for k, v in GOOD.items() if k not in ("axes", "control")}) + text)
    assert list(read_grid(file).axes["itc"]) == ["on", "off"] and read_grid(file).control == {"itc": "on"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": ["x"]}, "key 'metric' is not known, did you mean 'metrics'"),
        ({"metrics": []}, "metrics is missing"),
        ({"metrics": "vqa/accuracy"}, "metrics must be a list of strings"),
        ({"seeds": [0, 0]}, "must be different whole numbers"),
        ({"seeds": [0.5]}, "must be different whole numbers"),
        ({"vary": "all"}, "vary='all' must be product or one"),
        ({"control": {"itc": True}}, "control has no label for queries"),
        ({"control": {"itc": "onn", "queries": 8}}, "control 'itc=onn' is not known, did you mean 'itc=on'"),
        ({"without": [{"itc": True, "queries": 8}]}, "the control .* is not among the cells"),
        ({"axes": {"itc": {"on": {"stage_1.model.net.itc": 1}}}, "control": None}, "did you mean 'stage1'"),
        ({"axes": {"itc": {"on": {"stage1": 1}}}, "control": None}, "must begin with a step"),
        ({"axes": {"itc": ["on", "off"]}, "control": None}, "axis itc must be"),
        ({"axes": {"itc": {"a/b": {}}}, "control": None}, "'a/b' names files"),
        ({"axes": {"a=b": {"x": {}}}, "control": None}, "'a=b' names files"),
        ({"axes": {"itc": {"c#1": {}}}, "control": None}, "'c#1' names files"),
        ({"axes": {"itc": {"x" * 200: {}}}, "control": None}, "must have at most 180 letters"),
        ({"axes": {"itc": {"x": {"stage1.model.a": "$stage2"}}}, "control": None}, "the run of 'stage2'"),
        ({"axes": {"itc": {"x": {"stage2.model.a": {"b": ["$stage9"]}}}}, "control": None}, "the run of 'stage9'"),
        ({"compare": [[{"itc": "no"}, {}]]}, "compare 'itc=no' is not known"),
        ({"compare": [[{}, {}]]}, "must be two different settings"),
        ({"compare": [[{"queries": 1}, {}]], "without": [{"itc": True, "queries": 1}]}, "compare: .* not among the"),
        ({"seeds": 5}, "not laid out as an ablation"),
        ({"axes": ["itc"]}, "not laid out as an ablation"),
        ({"steps": CHAIN | {"vqa": {"test": "stage3"}}}, "test of 'stage3' is not known, did you mean"),
        ({"steps": CHAIN | {"vqa": {"train": "x"}}}, "step vqa must be"),
        ({"steps": CHAIN | {"stage2": {"fit": "x", "set": {"model.init_from": "$stage0"}}}}, "the run of 'stage0'"),
        ({"axes": {"lr": {"low": 1, "high": 2}}}, "range lr takes key, low, high and log"),
        ({"axes": {"lr": {"key": "stage1.a", "low": 2, "high": 1}}, "trials": 3, "seeds": [0]}, "low < high"),
        ({"axes": {"lr": {"key": "stage1.a", "low": 1, "high": 2}}, "trials": 3}, "confirm what it finds"),
        ({"axes": {"lr": {"key": "stage1.a", "low": 1, "high": 2}}, "seeds": [0]}, "trials=0 must be at least 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, changes, message):
    assert re.search(message, problems_of(tmp_path, **changes)), problems_of(tmp_path, **changes)


def test_yaml_s_words_for_numbers_are_numbers(tmp_path):
    axes = {"lr": {"key": "stage1.a", "low": "1e-4", "high": "1e-2", "log": True}}
    chain = {"stage1": {"fit": "a.yaml"}}
    found = grid_of(tmp_path, axes=axes, steps=chain, trials=3, seeds=[0], control={}).ranges["lr"]
    assert (found.low, found.high) == (1e-4, 1e-2)


def test_all_mistakes_are_named_at_once(tmp_path):
    text = problems_of(tmp_path, metric=["x"], steps=CHAIN | {"vqa": {"test": "stage3"}}, seeds=[])
    assert all(part in text for part in ("'metric'", "'stage3'", "seeds is missing"))


def test_a_missing_file_lists_what_there_is():
    with pytest.raises(FileNotFoundError, match=r"ablations/objectives\.yaml"):
        read_grid("ablations/objectivs.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("steps: {}\naxes:\n  itc: {on: {}}\n  itc: {off: {}}\n")
    with pytest.raises(ValueError, match=r"(?s)'itc' stands there twice.*line 4"):
        read_grid(tmp_path / "x.yaml")


@pytest.mark.parametrize("content", ["just words", "- a", "a: [1"])
def test_another_kind_of_file_says_so(tmp_path, content):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"x\.yaml (is not YAML|holds no mapping)"):
        read_grid(tmp_path / "x.yaml")


@pytest.mark.parametrize("file", sorted(Path("ablations").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_ablation_reads(file):
    grid = read_grid(file)
    assert grid.question and grid.expect and (grid.cells() or grid.ranges)
    assert f"python -m lit_blip2 sweep --config ablations/{file.name}" in file.read_text().partition("question:")[0]
