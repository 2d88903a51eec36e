"""The reader of experiments: parts by name, however they are written."""

from pathlib import Path

import pytest
import yaml

from lit_blip2.config import Experiment, arguments_of, class_path, foreign_arguments, from_text, read

PLAIN = """
model:
  class_path: lit_blip2.lit.LitStage2
  init_args:
    init_from: runs/one
    optimization: {lr: 1.0}
    net:
      vision: {name: vit}
      language: {name: opt}
      bridge: {class_path: some.Bridge, init_args: {qformer: {layers: 2}}}
data: {class_path: some.Data, init_args: {image_size: 8}}
trainer: {max_steps: 3}
"""


def resolved(value):
    """The same settings with a class beside every part, as the command line writes them."""
    named = {"net", "vision", "language", "qformer", "optimization"}
    if not isinstance(value, dict):
        return value
    found = {key: resolved(each) for key, each in value.items()}
    return {
        key: {"class_path": "some.Class", "init_args": each} if key in named else each for key, each in found.items()
    }


@pytest.mark.parametrize("write", [lambda settings: settings, resolved], ids=["plain", "resolved"])
def test_parts_are_found_with_and_without_their_class(write):
    experiment = Experiment(write(yaml.safe_load(PLAIN)), "x.yaml")
    assert experiment.model["init_from"] == "runs/one" and experiment.vision == {"name": "vit"}
    assert experiment.language == {"name": "opt"} and experiment.qformer == {"layers": 2}
    assert experiment.optimization == {"lr": 1.0} and experiment.data == {"image_size": 8}
    assert experiment.trainer == {"max_steps": 3}
    assert class_path(experiment.net["bridge"]) == "some.Bridge"


def test_what_is_set_in_a_part_is_set_in_the_settings():
    experiment = from_text(PLAIN, "x.yaml")
    experiment.data["image_size"] = experiment.vision["image_size"] = 9
    again = from_text(yaml.safe_dump(experiment.settings), "x.yaml")
    assert again.data["image_size"] == again.vision["image_size"] == 9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "[1]",
        "model: [1]",
        "model: {init_args: null}",
        "model: {class_path: a.B}",
        "model: {init_args: {net: 1}}",
    ],
)
def test_a_part_that_is_not_there_is_empty(text):
    experiment = from_text(text, "x.yaml")
    parts = (experiment.net, experiment.vision, experiment.qformer, experiment.language, experiment.optimization)
    assert not any(parts) and not experiment.data and not experiment.trainer


def test_a_class_without_arguments_has_none():
    assert arguments_of({"net": {"class_path": "a.B"}}, "net") == {} and class_path("a.B") == class_path(None) == ""


def test_what_is_not_yaml_is_named_in_one_line(tmp_path):
    (tmp_path / "cut.yaml").write_text("a:\n  - [1")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    for name in ("cut", "bytes"):
        with pytest.raises(ValueError, match=rf"{name}\.yaml (is not YAML|cannot be read): .+") as caught:
            read(tmp_path / f"{name}.yaml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", sorted(Path("experiments").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_has_its_parts(file):
    experiment = read(file)
    assert experiment.vision["name"] and experiment.trainer["max_steps"] and experiment.optimization["lr"]
    assert experiment.data["root"] and experiment.data["batch_size"] and experiment.qformer["num_queries"]


def test_arguments_of_others_classes_are_told_by_their_places():
    mine = {"class_path": "mine.Pool", "init_args": {"p": 3, "inner": {"class_path": "torch.nn.GELU", "init_args": {}}}}
    net = {"bridge": mine, "more": [{"class_path": "lit_blip2.x.Y", "init_args": {"a": 1}}], "vision": {"name": "vit"}}
    told = foreign_arguments(net)
    assert told["bridge.p"] == 3 and set(told) == {"bridge.p", "bridge.inner"}
    assert foreign_arguments({"b": {"class_path": "mine.B", "init_args": {"words": "/far/away/words.txt"}}}) == {
        "b.words": "words.txt"
    }
