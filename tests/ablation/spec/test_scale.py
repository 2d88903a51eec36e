"""Scales: what an ablation asks for and what a scale gives, what is left out, and every mistake in a scale's file."""

import re

import pytest
import yaml

from lit_blip2.ablation.spec import scale
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.ablation.spec.scale import read_scale

ABLATION = {
    "scale": "small",
    "steps": {
        "stage1": {"fit": "scale.stage1"},
        "retrieval": {"test": "stage1", "with": "scale.retrieval"},
        "stage2": {"fit": "scale.stage2", "set": {"model.init_from": "$stage1"}},
    },
    "axes": {
        "llm": {"opt": {}, "t5": "scale.t5"},
        "stage1": {"on": {}, "off": {"stage2.model.init_from": None}},
    },
    "compare": [[{"llm": "t5", "stage1": "off"}, {"llm": "t5"}], [{"stage1": "off"}, {}]],
    "metrics": ["vqa/accuracy", "binding/itc_accuracy"],
}
SMALL = {
    "seeds": [0, 1],
    "gives": {"stage1": "s1.yaml", "stage2": "s2.yaml", "retrieval": None, "t5": {"stage2.model.net.language": "t5"}},
    "prepare": {
        "stage1": ["data make-mini"],
        "stage2": ["data make-mini"],
        "t5": ["data make-models --only t5"],
        "bert": ["data make-models"],
    },
}
LARGE = {
    "like": "small",
    "seeds": [7],
    "gives": {"stage1": "l1.yaml", "retrieval": "flickr.yaml"},
    "set": {"stage1.trainer.max_steps": 9, "vqa.trainer.max_steps": 9},
    "lacks": {"t5": "it is too large", "binding/*": "no pairs"},
}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Read the ablation with changes, at a scale, with settings; files: more or other scales."""
    monkeypatch.setattr(scale, "SCALES", tmp_path / "scales")
    (tmp_path / "scales").mkdir()

    def ask(name: str = "", *settings: str, files: dict | None = None, **changes):
        for each, content in ({"small": SMALL, "large": LARGE} | (files or {})).items():
            (tmp_path / f"scales/{each}.yaml").write_text(yaml.safe_dump(content))
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(ABLATION | changes, sort_keys=False))
        return read_grid(tmp_path / "trial.yaml", name, settings)

    return ask


def test_an_ablation_runs_at_the_scale_that_it_names(asked):
    grid = asked()
    assert grid.name == asked("small").name == "trial" and not grid.left_out
    assert grid.seeds == [0, 1] and len(grid.points()) == 8
    assert grid.arguments({"llm": "t5", "stage1": "on"}, "stage2") == [
        "--config", "s2.yaml", "--model.init_from=$stage1", "--model.net.language=t5"
    ]  # fmt: skip
    assert grid.arguments({"llm": "t5", "stage1": "on"}, "retrieval") == ["--config", "s1.yaml"]


def test_what_makes_the_names_that_are_asked_for_comes_before_the_ablation_s_own_commands(asked):
    assert asked(prepare=["params"]).prepare == ["data make-mini", "data make-models --only t5", "params"]
    assert asked("large", prepare=["params"]).prepare == ["data make-mini", "params"]


def test_a_scale_like_another_says_the_rest_itself(asked):
    grid = asked("large")
    assert grid.name == "trial_large" and grid.seeds == [7]
    labels = {"llm": "opt", "stage1": "on"}
    files = ["--config", "l1.yaml", "--trainer.max_steps=9", "--config", "flickr.yaml"]
    assert grid.arguments(labels, "retrieval") == files
    assert grid.arguments(labels, "stage2") == ["--config", "s2.yaml", "--model.init_from=$stage1"]


def test_what_a_scale_lacks_is_left_out_and_told(asked):
    grid = asked("large", without=[{"llm": "t5", "stage1": "on"}])
    assert list(grid.axes["llm"]) == ["opt"] and grid.metrics == ["vqa/accuracy"] and not grid.without
    assert grid.compare == [[{"stage1": "off"}, {}]]
    assert grid.left_out == ["llm=t5: it is too large", "binding/itc_accuracy: no pairs"]


def test_what_is_expected_of_what_a_scale_lacks_is_left_out(asked):
    kept = {"metric": "vqa/accuracy", "better": {"stage1": "on"}, "than": {"stage1": "off"}, "by": 0.05}
    lost = [kept | {"metric": "binding/itc_accuracy"}, kept | {"better": {"llm": "t5"}}]
    grid = asked("large", expect={"text": "x", "comparisons": [lost[0], kept, lost[1]]})
    assert [each.metric for each in grid.expected] == ["vqa/accuracy"] and grid.expect.text == "x"
    assert len(asked(expect={"comparisons": [*lost, kept]}).expected) == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"axes": {"llm": ABLATION["axes"]["llm"]}}, "it compares llm=t5: it is too large"),
        ({"control": {"llm": "t5", "stage1": "on"}}, "it compares llm=t5"),
        ({"steps": ABLATION["steps"] | {"stage3": {"fit": "scale.t5"}}}, "it is too large"),
        ({"metrics": ["binding/itc_accuracy"]}, "no pairs"),
        ({"files": {"large": LARGE | {"lacks": {"trial": "it makes no sense"}}}}, "it makes no sense"),
    ],
)
def test_an_ablation_that_needs_what_is_lacking_says_so(asked, changes, why):
    with pytest.raises(ValueError, match=re.escape("trial.yaml cannot be run at scale large: " + why)):
        asked("large", **changes)


def test_settings_at_a_scale_are_below_those_of_the_labels(asked):
    at = {"small": {"set": {"stage2.model.init_from": "a", "stage1.trainer.max_steps": 4}, "seeds": [5]}}
    grid = asked(at=at, seeds=[3])
    assert grid.seeds == [5] and asked("large", at=at, seeds=[3]).seeds == [3]
    assert grid.arguments({"llm": "opt", "stage1": "on"}, "stage2")[2:] == ["--model.init_from=a"]
    assert grid.arguments({"llm": "opt", "stage1": "off"}, "stage2")[2:] == ["--model.init_from=null"]
    assert grid.arguments({"llm": "opt", "stage1": "off"}, "stage1")[2:] == ["--trainer.max_steps=4"]


def test_a_scale_may_have_more_to_prepare_and_to_expect(asked):
    end = {"metric": "vqa/accuracy", "better": {"stage1": "on"}, "than": {"stage1": "off"}, "by": 0.05}
    at = {"small": {"prepare": ["data make-mini --seed 1"], "comparisons": [end | {"at": 200}]}}
    grid = asked(at=at, expect={"text": "it helps", "comparisons": [end]})
    assert [each.at for each in grid.expect.comparisons] == [None, 200] and grid.expect.text == "it helps"
    assert (
        grid.prepare[-1] == "data make-mini --seed 1" and len(asked(at=at, expect="it helps").expect.comparisons) == 1
    )
    assert not asked("large", at=at, expect="it helps").expect.comparisons


def test_settings_of_the_command_line_are_above_the_scale_s(asked):
    grid = asked("large", "stage1.trainer.max_steps=1000", "stage2.fit=x.yaml", "stage1.model.net.itm=null")
    labels = {"llm": "opt", "stage1": "on"}
    assert grid.arguments(labels, "stage1")[2:] == ["--trainer.max_steps=1000", "--model.net.itm=null"]
    assert grid.arguments(labels, "stage2")[:2] == ["--config", "x.yaml"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stage2.model.init_from=x", "--set stage2.model.init_from: axis stage1 sets it too"),
        ("stage9.trainer.max_steps=1", "set: 'stage9.trainer.max_steps' must begin with a step: 'stage9' is not known"),
        ("stage1.data.seed=1", "set: stage1.data.seed would be overwritten; seeds: is what varies the seed"),
        ("retrieval.fit=x.yaml", "retrieval tests what stage1 has fitted, with its settings: set stage1.fit"),
        ("stage1.fit=", "set, stage1.fit must be an experiment's file, not None"),
        ("stage1.model.bert=$stage2", "the run of 'stage2' is not known; there are none"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(asked, setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        asked("", setting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes": {"llm": {"opt": {}, "t5": "scale.t6"}}},
            "scale small: 't6' is not known; there are retrieval, stage1, stage2, t5",
        ),
        ({"scale": None}, "a scale must give retrieval, stage1, stage2, t5: add scale: NAME, or give --scale NAME"),
        ({"scale": 3}, "scale must be a valid string, not 3"),
        ({"at": {"smal": {}}}, "at: scale 'smal' is not known, did you mean 'small'; there are large, small"),
        ({"at": {"small": {"sets": {}}}}, "at.small.sets is no key here"),
        ({"at": {"small": {"seeds": 5}}}, "at.small.seeds must be a valid list, not 5"),
        ({"at": {"small": {"set": {"stage7.a": 1}}}}, "set: 'stage7.a' must begin with a step: 'stage7' is not known"),
        ({"steps": 5}, "steps must be a valid mapping, not 5"),
        ({"axes": 5}, "axes must be a valid mapping, not 5"),
        ({"metrics": 5}, "metrics must be a valid list, not 5"),
    ],
)
def test_mistakes_in_what_an_ablation_asks_are_named(asked, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        asked(**changes)


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (
            {"give": {}, "seeds": ["x"]},
            ["key 'give' is not known, did you mean 'gives'", "seeds.0 must be a valid integer"],
        ),
        ({"gives": {"a": 1}, "lacks": {"a": "why"}}, ["a: both given and lacking"]),
        ({"lacks": {"a": None}}, ["lacks.a must be a valid string, not None"]),
        ({"prepare": {"a": ["data 'x"]}}, ['prepare.a.0 "data \'x" is no command']),
        ({"like": "large"}, ["like large, which is like small: name that one"]),
        ({"like": "tiny"}, ["no file", "small.yaml"]),
    ],
)
def test_mistakes_in_a_scale_are_named(asked, content, messages):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        asked("other", files={"other": content})
    assert all(message in str(error.value) for message in messages), error.value


def test_a_scale_gives_what_the_one_that_it_is_like_lacks(asked):
    asked(files={"larger": {"like": "large", "gives": {"t5": {}}}, "large": LARGE | {"like": None}})
    assert list(read_scale("larger").lacks) == ["binding/*"] and read_scale("larger").gives["stage1"] == "l1.yaml"
