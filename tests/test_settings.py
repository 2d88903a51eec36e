"""What of a network changes its function and no shape."""

import copy
from dataclasses import dataclass
from enum import Enum
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_blip2.model.bridge import LinearBridge, MLPBridge
from lit_blip2.objectives.lm import LM, PrefixLM
from lit_blip2.settings import check_same, settings
from lit_blip2.signature import signature


class Block(nn.Module):
    def __init__(self, heads: int, eps: float = 1e-5, window: int | None = None):
        super().__init__()
        self.norm, self.mix, self.drop = nn.LayerNorm(8, eps=eps), nn.Linear(8, 8), nn.Dropout(0.3)
        self.active, self.squash = nn.GELU(), F.silu
        self.heads, self.hidden, self.window = heads, 8, window


class Words:
    def settings(self) -> dict:
        return {"digest": "abc"}


class Net(nn.Module):
    def __init__(self, *blocks: Block):
        super().__init__()
        self.layers, self.words, self.frozen = nn.ModuleList(blocks), Words(), True


def test_they_are_what_shapes_do_not_show():
    assert settings(Net(Block(2), Block(2, eps=1e-6))) == {
        "words.digest": "abc",
        "layers.*.squash": "silu",
        "layers.*.heads": 2,
        "layers.*.hidden": 8,
        "layers.*.window": None,
        "layers.*.norm.eps": [1e-5, 1e-6],
        "layers.*.active": "GELU",
        "layers.*.active.approximate": "none",
    }


@pytest.mark.parametrize("name", ["num_queries", "hidden", "width", "vision_width", "num_tokens", "num_parameters"])
def test_no_name_of_a_class_tells_that_shapes_show_it(name):
    """Such as the width of a window, or the tokens that a bridge averages to."""

    class Bridge(nn.Module):
        def __init__(self, value: int):
            super().__init__()
            self.projection = nn.Linear(8, 8)
            setattr(self, name, value)

    with pytest.raises(ValueError, match=rf"other settings: {name} 16, here 4\."):
        check_same(settings(Bridge(16)), settings(Bridge(4)), "X")
    assert check_same({}, settings(Bridge(4)), "X") == []  # of a checkpoint from before it was told


@pytest.mark.parametrize("name", ["weight", "p", "sparse", "padding_idx", "dropout", "names"])
@pytest.mark.parametrize("base", [nn.Module, partial(nn.Linear, 8, 8), partial(LinearBridge, 6, 10)])
def test_a_name_that_has_no_function_in_another_class_is_compared(base, name):
    kind, args = (base.func, base.args) if isinstance(base, partial) else (base, ())

    class Own(kind):
        def __init__(self, value: float):
            super().__init__(*args)
            self.__dict__[name] = value

    with pytest.raises(ValueError, match=rf"other settings: {name} 0\.5, here True\."):
        check_same(settings(Own(0.5)), settings(Own(True)), "X")


class Way(Enum):
    MEAN, LAST = "mean", "last"


@dataclass
class Sizes:
    heads: int
    inner: tuple = (1, 2)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        *((np.float32(0.5), np.float32(1)), (np.int64(1), np.int64(2)), ([np.float32(1)], [np.float32(2)])),
        *((Way.MEAN, Way.LAST), (Sizes(1), Sizes(2)), ({"a": Sizes(1)}, {"a": Sizes(1, (1, 3))})),
        *(({"b", "a"}, {"a", "c"}), (range(3), range(4)), (slice(1), slice(2)), (1 + 2j, 1j)),
        *((b"a", b"b"), (torch.float16, torch.float32), (torch.Size([2]), torch.Size([3]))),
    ],
)
def test_values_of_any_plain_kind_are_compared_and_can_be_kept(one, two, tmp_path):
    class Own(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

    torch.save(settings(Own(one)), tmp_path / "kept.pt")
    kept = torch.load(tmp_path / "kept.pt", weights_only=True)
    assert not check_same(kept, settings(Own(copy.deepcopy(one))), "X")
    with pytest.raises(ValueError, match="other settings: value "):
        check_same(kept, settings(Own(two)), "X")


def test_what_has_no_function_in_torchs_classes_and_objectives_is_not_compared():
    class MyDropout(nn.Dropout1d): ...

    class MyLM(LM): ...

    class MyObjective(nn.Module):
        passes = loss = None

        def __init__(self, weight: float):
            super().__init__()
            self.weight, self.draws = weight, 2

    def net(p: float, sparse: bool, drop: type = nn.Dropout) -> nn.Module:
        attention = nn.MultiheadAttention(8, 2, dropout=p)
        embedding = nn.Embedding(4, 8, padding_idx=0 if sparse else None, sparse=sparse)
        return nn.Sequential(drop(p), embedding, attention, MyLM(weight=p), PrefixLM(weight=p), MyObjective(p))

    assert not check_same(settings(net(0.1, True, MyDropout)), settings(net(0.4, False, MyDropout)), "X")
    assert not check_same(settings(net(0.1, True)), settings(net(0.4, False)), "X")


@pytest.mark.parametrize("bridge", [LinearBridge, MLPBridge])
def test_bridges_of_the_same_weights_that_average_to_other_tokens_differ(bridge):
    few, many = bridge(6, 10, num_tokens=4), bridge(6, 10, num_tokens=16)
    assert {k: v.shape for k, v in few.state_dict().items()} == {k: v.shape for k, v in many.state_dict().items()}
    with pytest.raises(ValueError, match=r"other settings: num_tokens 16, here 4\."):
        check_same(settings(many), settings(few), "X")


def test_differences_are_refused_by_name_unless_they_are_allowed():
    theirs, ours = settings(Net(Block(2, window=4))), settings(Net(Block(4)))
    with pytest.raises(ValueError, match=r"^X was made.*heads 2, here 4; layers\.\*\.window 4, here null\. Do$"):
        check_same(theirs, ours, "X", way_out="Do")
    with pytest.raises(ValueError, match=r"other settings: layers\.\*\.window 4, here null\. Do"):
        check_same(theirs, ours, "X", allowed=["heads"], way_out="Do")
    assert check_same(theirs, ours, "X", allowed=["heads", "layers.*.window"]) == [
        "layers.*.heads 2, here 4",
        "layers.*.window 4, here null",
    ]
    with pytest.raises(ValueError, match="allow_different names 'eads', which is no setting"):
        check_same(theirs, ours, "X", allowed=["eads"])
    assert check_same(theirs | {"gone": 1}, theirs | {"new": 2}, "X") == []


def test_weights_are_compared_unless_the_checkpoint_brings_them():
    weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    theirs, ours = {"vision.weights": signature([weights])}, {"vision.weights": signature([weights * 2])}
    with pytest.raises(ValueError, match=r"vision\.weights of other numbers in 1 of 1 weights.*\. Use"):
        check_same(theirs, ours, "X", state=["net.vision.blocks.0.lora_A", "net.bridge.weight"])
    assert check_same(theirs, ours, "X", state=["net.vision.blocks.0.weight"]) == []
    assert check_same(theirs, {"vision.weights": signature([weights.half()])}, "X") == []
    assert len(check_same(theirs, ours, "X", allowed=["vision.weights"])) == 1
