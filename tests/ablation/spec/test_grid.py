"""Ablation files: cells in order, what each overrides, and every mistake in a file named at once."""

import math
import re
from pathlib import Path

import pytest
import yaml

from lit_blip2.ablation.spec.read import read_grid

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
    assert [cell.name for cell in grid_of(tmp_path).points()] == [
        "itc=on,queries=1,seed=0", "itc=on,queries=1,seed=1", "itc=on,queries=8,seed=0", "itc=on,queries=8,seed=1",
        "itc=off,queries=1,seed=0", "itc=off,queries=1,seed=1", "itc=off,queries=8,seed=0", "itc=off,queries=8,seed=1",
    ]  # fmt: skip


def test_one_factor_at_a_time_is_the_control_and_its_neighbours(tmp_path):
    cells = grid_of(tmp_path, vary="one", seeds=[3]).points()
    assert [cell.name for cell in cells] == [
        "itc=on,queries=1,seed=3",
        "itc=on,queries=8,seed=3",
        "itc=off,queries=8,seed=3",
    ]


def test_cells_are_left_out(tmp_path):
    cells = grid_of(tmp_path, without=[{"itc": False, "queries": 1}], seeds=[0]).points()
    assert len(cells) == 3 and {"itc": "off", "queries": "1"} not in [cell.labels for cell in cells]


def test_arguments_are_the_step_s_own_and_the_labels_on_top(tmp_path):
    grid = grid_of(tmp_path, axes=GOOD["axes"] | {"queries": {1: {"stage1.trainer.max_steps": 9}, 8: {}}})
    labels = {"itc": "off", "queries": "1"}
    stage1, stage2 = "experiments/mini_stage1.yaml", "experiments/mini_opt.yaml"
    assert grid.arguments(labels, "stage1") == ["--config", stage1, "--trainer.max_steps=9", "--model.net.itc=null"]
    assert grid.arguments(labels, "stage2") == ["--config", stage2, "--model.init_from=$stage1"]


def test_a_test_has_its_fit_s_arguments_and_its_own_behind_them(tmp_path):
    steps = CHAIN | {"vqa": {"test": "stage2", "with": "okvqa.yaml", "set": {"model.no_image": False}}}
    axes = {"llm": {"opt": {}, "t5": {"stage2.fit": "t5.yaml"}}, "on": {"a": {}, "b": {"vqa.with": "gqa.yaml"}}}
    grid = grid_of(tmp_path, steps=steps, axes=axes, control=None)
    fitted = ["--config", "t5.yaml", "--model.init_from=$stage1"]
    for label, file in {"a": "okvqa.yaml", "b": "gqa.yaml"}.items():
        behind = ["--config", file, "--model.no_image=false"]
        assert grid.arguments({"llm": "t5", "on": label}, "vqa") == fitted + behind


def test_a_setting_may_be_the_label_of_another_axis(tmp_path):
    bridge = {"stage2.bridge": {"kind": "mlp", "tokens": ["axis.queries"]}, "stage2.words": "axis.itc"}
    axes = {"itc": {True: {}}, "queries": {8: {}}, "bridge": {"mlp": bridge | {"stage1.queries": "axis.queries"}}}
    grid = grid_of(tmp_path, axes=axes, control=None)
    labels = {"itc": "on", "queries": "8", "bridge": "mlp"}
    assert grid.arguments(labels, "stage1")[2:] == ["--trainer.max_steps=4", "--queries=8"]
    wanted = ["--model.init_from=$stage1", '--bridge={"kind": "mlp", "tokens": [8]}', "--words=true"]
    assert grid.arguments(labels, "stage2")[2:] == wanted


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
        ({"metrics": "vqa/accuracy"}, "metrics must be a valid list, not 'vqa/accuracy'"),
        ({"seeds": [0, 0]}, "must be different whole numbers"),
        ({"seeds": [0.5]}, r"seeds\.0 must be a valid integer, not 0\.5"),
        ({"vary": "all"}, "vary must be 'product' or 'one', not 'all'"),
        ({"control": {"itc": True}}, "control has no label for queries"),
        ({"control": {"itc": "onn", "queries": 8}}, "control 'itc=onn' is not known, did you mean 'itc=on'"),
        ({"without": [{"itc": True, "queries": 8}]}, "the control .* is not among the cells"),
        ({"axes": {"itc": {"on": {"stage_1.model.net.itc": 1}}}, "control": None}, "did you mean 'stage1'"),
        ({"axes": {"itc": {"on": {"stage1": 1}}}, "control": None}, "must begin with a step"),
        ({"axes": {"itc": ["on", "off"]}, "control": None}, r"axes\.itc must be a valid mapping, not \['on', 'off'\]"),
        ({"axes": {"itc": {"a/b": {}}}, "control": None}, "'a/b' names files"),
        ({"axes": {"a=b": {"x": {}}}, "control": None}, "'a=b' names files"),
        ({"axes": {"itc": {"c#1": {}}}, "control": None}, "'c#1' names files"),
        ({"axes": {"itc": {"x" * 200: {}}}, "control": None}, "must have at most 180 letters"),
        ({"axes": {"itc": {"x": {"stage1.model.a": "$stage2"}}}, "control": None}, "the run of 'stage2'"),
        ({"axes": {"itc": {"x": {"stage2.model.a": {"b": ["$stage9"]}}}}, "control": None}, "the run of 'stage9'"),
        ({"axes": {"itc": {"x": {"stage2.model.a": "axis.itm"}}}, "control": None}, "axis 'itm' is not known"),
        ({"compare": [[{"itc": "no"}, {}]]}, "compare 'itc=no' is not known"),
        ({"compare": [[{}, {}]]}, "must be two different settings"),
        ({"compare": [[{"queries": 1}, {}]], "without": [{"itc": True, "queries": 1}]}, "compare: .* not among the"),
        ({"seeds": 5}, "seeds must be a valid list, not 5"),
        ({"compare": 3}, "compare must be a valid list, not 3"),
        ({"prepare": ["data 'make"]}, r"prepare\.0 .* is no command .No closing quotation"),
        ({"axes": {"a": {"x": {"vqa.fit": "c.yaml"}}}, "control": None}, r"vqa tests what stage2 .*: set stage2\.fit"),
        ({"seeds": 0}, "seeds must be a valid list, not 0"),
        ({"seeds": [2**32]}, "must be different whole numbers from 0 to 4294967295"),
        ({"seeds": [True]}, r"seeds\.0 must be a valid integer, not True"),
        ({"metrics": ["a", "b", "a"]}, "metrics: a stands there twice"),
        ({"slurm": ["gpu"]}, r"slurm must be a valid mapping, not \['gpu'\]"),
        ({"trials": 0}, "trials does nothing in a grid"),
        ({"direction": "maximize"}, "direction does nothing in a grid"),
        ({"axes": {"itc": {}}}, "axis itc has no labels"),
        ({"axes": {"itc": {}}, "control": None}, "axis itc has no labels"),
        ({"axes": {"seed": {"x": {}}}, "control": None}, "axis 'seed': a report's column has this name"),
        ({"axes": {"state": {"x": {}}}, "control": None}, "axis 'state': a report"),
        ({"axes": {"cell": {"x": {}}}, "control": None}, "axis 'cell': a report"),
        ({"axes": {"itc": {"x": {"stage1.fit": None}}}, "control": None}, "stage1.fit must be an experiment's file"),
        ({"steps": {"final": {"fit": "a.yaml"}}, "axes": {"x": {"y": {}}}, "control": None}, "step 'final': a report"),
        ({"steps": CHAIN | {"s" * 181: {"fit": "a.yaml"}}}, "must have at most 180 letters"),
        ({"steps": CHAIN | {"stage1": {"fit": None}}}, "step stage1: fit must be an experiment's file, not None"),
        ({"steps": CHAIN | {"stage1": {"fit": "a.yaml", "set": ["x"]}}}, r"steps\.stage1\.set must be a valid mapping"),
        ({"axes": ["itc"]}, "axes must be a valid mapping"),
        ({"steps": CHAIN | {"vqa": {"test": "stage3"}}}, "test of 'stage3' is not known, did you mean"),
        ({"steps": CHAIN | {"vqa": {"train": "x"}}}, r"steps\.vqa must be \{fit: FILE"),
        ({"steps": CHAIN | {"stage2": {"fit": "x", "set": {"model.init_from": "$stage0"}}}}, "the run of 'stage0'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, changes, message):
    assert re.search(message, problems_of(tmp_path, **changes)), problems_of(tmp_path, **changes)


BETTER = {"metric": "vqa/mean_over_types", "better": {"itc": True}, "than": {"itc": False}, "by": 0.05}


def test_what_is_expected_has_all_labels_in_the_axes_order(tmp_path):
    assert grid_of(tmp_path, expect="Nothing.").expect.text == "Nothing."
    than = {"queries": 1, "itc": False}
    expect = {"text": "ITC helps.", "comparisons": [BETTER, BETTER | {"than": than, "at": 200, "metric": "loss/lm"}]}
    grid = grid_of(tmp_path, expect=expect)
    first, second = grid.expected
    assert (first.better, first.than) == ({"itc": "on", "queries": "8"}, {"itc": "off", "queries": "8"})
    assert list(second.than.items()) == [("itc", "off"), ("queries", "1")]
    assert (grid.expect.text, first.by, first.at, second.at) == ("ITC helps.", 0.05, None, 200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "vqa/accuracy"}, "comparison 1: of the metrics 'vqa/accuracy' is not known.* there are vqa/mean"),
        ({"better": {"itc": "maybe"}}, "expect 'itc=maybe' is not known"),
        ({"than": {"itm": "on"}}, "expect 'itm=on' is not known"),
        ({"than": {"itc": True}}, "better and than are both {'itc': 'on', 'queries': '8'}"),
        ({"than": {"itc": False, "queries": 1}}, "'queries': '1'} is not among the cells"),
        ({"by": 0}, "expect.comparisons.0.by must be above 0, not 0"),
        ({"by": "much"}, "expect.comparisons.0.by must be a finite number, not 'much'"),
        ({"at": 1.5}, r"expect.comparisons.0.at must be a valid integer, not 1\.5"),
        ({"at": 0}, "expect.comparisons.0.at must be above 0"),
        ({"worse": {}}, "expect.comparisons.0.worse is no key here"),
    ],
)
def test_mistakes_in_what_is_expected_are_named(tmp_path, changes, message):
    without = [{"itc": False, "queries": 1}]
    text = problems_of(tmp_path, expect={"comparisons": [BETTER | changes]}, without=without)
    assert re.search(message, text), text


def test_a_comparison_without_a_size_is_refused(tmp_path):
    given = {key: value for key, value in BETTER.items() if key != "by"}
    assert "expect.comparisons.0.by is missing" in problems_of(tmp_path, expect={"comparisons": [given]})


OVERWRITTEN = {
    "seed_everything": "seeds: is what varies the seed",
    "data.seed": "seeds: is what varies the seed",
    "data.init_args.seed": "seeds: is what varies the seed",
    "trainer.logger.init_args.save_dir": "every run of a sweep logs into its own folder",
}


@pytest.mark.parametrize("key", OVERWRITTEN)
def test_a_key_that_the_sweep_sets_itself_is_refused(tmp_path, key):
    in_step = problems_of(tmp_path, steps=CHAIN | {"stage1": {"fit": "a.yaml", "set": {key: 1}}})
    assert f"step stage1, set: {key} would be overwritten; {OVERWRITTEN[key]}" in in_step
    in_axis = problems_of(tmp_path, axes={"a": {"x": {f"stage1.{key}": 1}}}, control=None)
    in_range = problems_of(tmp_path, **search_of(a={"key": f"stage1.{key}"}))
    why = "is no axis" if key.startswith("trainer.logger") else f"would be overwritten; {OVERWRITTEN[key]}"
    assert f"axis a, label x: stage1.{key} {why}" in in_axis
    assert f"range a: stage1.{key} {why}" in in_range


def test_a_logger_is_a_setting_of_every_cell_and_no_axis(tmp_path):
    for key in ("trainer.logger", "trainer.logger.init_args.project"):
        in_axis = problems_of(tmp_path, axes={"a": {"x": {f"stage1.{key}": "CSVLogger"}}}, control=None)
        assert f"axis a, label x: stage1.{key} is no axis, what logs a run changes none of its numbers" in in_axis
    grid_of(tmp_path)
    given = ["stage1.trainer.logger=CSVLogger", "stage1.trainer.logger.project=a"]
    made = read_grid(tmp_path / "trial.yaml", settings=given)
    assert {f"--{each.removeprefix('stage1.')}" for each in given} <= {*made.arguments(made.control, "stage1")}


def axis(key: str, *values) -> dict:
    """An axis whose first label sets nothing, and label k the k-th value."""
    return {"0": {}} | {str(k): {key: value} for k, value in enumerate(values, 1)}


def test_two_axes_that_set_one_key_are_refused(tmp_path):
    axes = {"lr": axis("stage1.model.lr", 1, 2), "itc": axis("stage1.x", 1), "fast": axis("stage1.model.lr", 3)}
    text = problems_of(tmp_path, axes=axes, control=None)
    assert "axes lr and fast both set stage1.model.lr" in text and "itc" not in text
    apart = [{"lr": label, "fast": 1} for label in (1, 2)]
    assert len(grid_of(tmp_path, axes=axes, control=None, without=apart, seeds=[0]).points()) == 8


def test_a_null_may_take_away_what_another_axis_gives(tmp_path):
    axes = {"bert": axis("stage1.model.bert", "a"), "stage1": axis("stage1.model.bert", None)}
    assert len(grid_of(tmp_path, axes=axes, control=None, seeds=[0]).points()) == 4
    turned = dict(reversed(axes.items()))
    assert "axes stage1 and bert both set stage1.model.bert" in problems_of(tmp_path, axes=turned, control=None)


def test_one_at_a_time_a_varied_label_may_stand_over_the_control_s_but_not_beneath_it(tmp_path):
    axes = {"fast": axis("stage1.model.lr", 3), "lr": axis("stage1.model.lr", 1, 2)}
    assert len(grid_of(tmp_path, axes=axes, vary="one", control={"fast": 1, "lr": 0}, seeds=[0]).points()) == 4
    beneath = problems_of(tmp_path, axes=axes, vary="one", control={"fast": 0, "lr": 1})
    assert "axes fast and lr both set stage1.model.lr" in beneath


def search_of(**ranges) -> dict:
    """What makes GOOD a search of these ranges; what they leave out is sound."""
    sound = {"key": "stage1.a", "low": 1, "high": 2}
    return {
        "steps": {"stage1": {"fit": "a.yaml"}},
        "axes": {name: {key: value for key, value in (sound | given).items() if value != "gone"}
                 for name, given in ranges.items()},
        "trials": 3,
        "seeds": [0],
        "control": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ranges", "changes", "message"),
    [
        ({"lr": {"key": "gone"}}, {}, r"ranges\.lr\.key is missing"),
        ({"lr": {"high": "gone"}}, {}, r"ranges\.lr\.high is missing"),
        ({"lr": {"step": 2}}, {}, r"ranges\.lr\.step is no key here"),
        ({"lr": {"low": 2, "high": 1}}, {}, "low < high"),
        ({"lr": {"low": 0, "log": True}}, {}, "low > 0 for log"),
        ({"lr": {"low": False}}, {}, r"ranges\.lr\.low must be a finite number, not False"),
        ({"lr": {"high": math.inf}}, {}, r"ranges\.lr\.high must be a finite number, not inf"),
        ({"lr": {"low": math.nan}}, {}, r"ranges\.lr\.low must be a finite number, not nan"),
        ({"lr": {"high": "much"}}, {}, r"ranges\.lr\.high must be a finite number, not 'much'"),
        ({"lr": {"log": "true"}}, {}, r"ranges\.lr\.log must be a valid boolean, not 'true'"),
        ({"lr": {"log": 1}}, {}, r"ranges\.lr\.log must be a valid boolean, not 1"),
        ({"a/b": {}}, {}, "'a/b' names files"),
        ({"seed": {}}, {}, "axis 'seed': a report's column has this name"),
        ({"cell": {}, "state": {"key": "stage1.b"}}, {}, "axis 'cell'.*\n.*axis 'state'"),
        ({"x" * 170: {}}, {}, "must have at most 180 letters"),
        ({"a": {}, "b": {}}, {}, "ranges a and b both set stage1.a"),
        ({"lr": {}}, {"seeds": [0, 1]}, "confirm what it finds"),
        ({"lr": {}}, {"trials": 0}, "trials=0 must be at least 1"),
        ({"lr": {}}, {"direction": "up"}, "direction must be 'maximize' or 'minimize', not 'up'"),
        ({"lr": {}}, {"vary": "product"}, "vary does nothing in a search"),
        ({"lr": {}}, {"control": {"lr": 1}}, "control does nothing in a search"),
        ({"lr": {}}, {"without": [{"lr": 1}]}, "without does nothing in a search"),
        ({"lr": {}}, {"expect": {"comparisons": [BETTER]}}, "expect: comparisons do nothing in a search"),
        ({"lr": {}}, {"compare": [[{"lr": 1}, {"lr": 2}]]}, "compare does nothing in a search"),
    ],
)
def test_mistakes_in_a_search_are_named(tmp_path, ranges, changes, message):
    text = problems_of(tmp_path, **search_of(**ranges) | changes)
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("metric", "given", "direction"),
    [
        ("vqa/accuracy", {}, "maximize"),
        ("loss/itc", {}, "minimize"),
        ("llm/perplexity", {}, "minimize"),
        ("loss/itc", {"direction": "maximize"}, "maximize"),
        ("vqa/accuracy", {"direction": "minimize"}, "minimize"),
    ],
)
def test_a_search_goes_where_its_metric_is_better_or_where_it_is_told(tmp_path, metric, given, direction):
    assert grid_of(tmp_path, **search_of(lr={}), metrics=[metric], **given).direction == direction


def test_labels_may_be_called_low_and_high(tmp_path):
    axes = {"lr": {"low": {"stage1.model.lr": 1}, "high": {}}}
    assert list(grid_of(tmp_path, axes=axes, control=None).axes["lr"]) == ["low", "high"]


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


@pytest.mark.parametrize(
    ("labels", "word"),
    [("on: {}, yes: {}", "'yes' stands there twice, as 'on'"), ("true: {}, 'on': {}", "'on' stands there twice"),
     ("1: {}, '1': {}", "'1' stands there twice"), ("1: {}, 1.0: {}", "'1.0' stands there twice")],
)  # fmt: skip
def test_labels_that_are_one_word_are_refused(tmp_path, labels, word):
    (tmp_path / "x.yaml").write_text(f"axes: {{itc: {{{labels}}}}}\n")
    with pytest.raises(ValueError, match=word):
        read_grid(tmp_path / "x.yaml")


def test_a_key_of_several_words_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("axes: {itc: {[on, off]: {}}}\n")
    with pytest.raises(ValueError, match=r"(?s)x\.yaml is not YAML: a key must be one word.*line 1"):
        read_grid(tmp_path / "x.yaml")


def test_a_mapping_may_be_merged_into_others(tmp_path):
    steps = "steps: {a: {fit: a.yaml, set: &both {x: 1}}, b: {fit: b.yaml, set: {<<: *both, y: 2}}}\n"
    (tmp_path / "x.yaml").write_text(steps + "axes: {k: {v: {}}}\nseeds: [0]\nmetrics: [m]\n")
    assert read_grid(tmp_path / "x.yaml").steps["b"].set == {"x": 1, "y": 2}


@pytest.mark.parametrize("content", ["just words", "- a", "a: [1"])
def test_another_kind_of_file_says_so(tmp_path, content):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"x\.yaml (is not YAML|holds no mapping)"):
        read_grid(tmp_path / "x.yaml")


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "x.yaml").write_bytes("question: é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.yaml cannot be read: .*Save it as UTF-8"):
        read_grid(tmp_path / "x.yaml")


@pytest.mark.parametrize("file", sorted(Path("ablations").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_ablation_reads(file):
    grid = read_grid(file)
    assert grid.question and grid.expect.text and (grid.points() or grid.ranges)
    assert f"python -m lit_blip2 sweep --config ablations/{file.name}" in file.read_text().partition("question:")[0]
