"""Which class the network of an experiment is."""

import inspect
import sys
from pathlib import Path

import pytest

from lit_blip2 import lit
from lit_blip2.config import read
from lit_blip2.network import OWN, network_class, sketch
from lit_blip2.objectives.stage1 import Stage1

OTHERS = """
from torch import nn

from lit_blip2.lit import LitStage1
from lit_blip2.objectives.stage1 import Stage1


class MyStage1(Stage1):
    pass


class Annotated(LitStage1):
    def __init__(self, net: "MyStage1", **rest):
        super().__init__(net, **rest)


class Handed(LitStage1):
    def __init__(self, more: int = 1, **rest):
        super().__init__(**rest)


class Silent(nn.Module):
    def __init__(self, net):
        super().__init__()
"""


@pytest.fixture
def others(tmp_path, monkeypatch):
    """A module of somebody's own, and mini_stage1 with one of its classes as the model."""
    (tmp_path / "somebodys_own.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str):
        experiment = read(Path("experiments/mini_stage1.yaml"))
        experiment.settings["model"]["class_path"] = name
        return experiment

    yield make
    sys.modules.pop("somebodys_own", None)


def test_the_table_says_what_the_annotations_say():
    found = {f"lit_blip2.lit.{name}": getattr(lit, name) for name in ("LitStage1", "LitStage2", "LitJoint")}
    assert {name: inspect.signature(each).parameters["net"].annotation for name, each in found.items()} == OWN


@pytest.mark.parametrize(("name", "wanted"), [("Annotated", "MyStage1"), ("Handed", "Stage1")])
def test_a_module_of_ones_own_says_its_network(others, name, wanted):
    experiment = others(f"somebodys_own.{name}")
    assert network_class(experiment).__name__ == wanted
    assert type(sketch(experiment)).__name__ == wanted


def test_a_subclass_beside_the_settings_of_the_network_is_built(others):
    experiment = others("lit_blip2.lit.LitStage1")
    experiment.model["net"] = {"class_path": "somebodys_own.MyStage1", "init_args": experiment.net}
    assert network_class(experiment) is Stage1 and type(sketch(experiment)).__name__ == "MyStage1"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (None, "no model.class_path in it: name one"),
        ("LitStage1", "'LitStage1' cannot be imported"),
        ("nowhere.Lit", "'nowhere.Lit' cannot be imported: No module named 'nowhere'"),
        ("somebodys_own.Silent", "must name the class of its network"),
    ],
)
def test_a_module_without_a_network_is_refused(others, name, says):
    with pytest.raises(ValueError, match=says) as caught:
        network_class(others(name))
    assert str(caught.value).startswith("experiments/mini_stage1.yaml: ")
