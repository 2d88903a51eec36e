"""The bridges: shapes, what each computes by hand or with PyTorch's own attention, and what `params` counts."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_blip2.config import read
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.model.bridge import LinearBridge, MLPBridge, ResamplerBridge
from lit_blip2.network import count, sketch

SMALL = dict(hidden=12, layers=2, heads=3, intermediate=20)
BRIDGES = [(LinearBridge, {}), (MLPBridge, {}), (MLPBridge, {"hidden": 5}), (ResamplerBridge, SMALL)]


@pytest.fixture
def features_BND():
    return torch.randn(2, 17, 6, generator=torch.Generator().manual_seed(0))


def made(bridge, num_tokens=6, **arguments):
    torch.manual_seed(0)
    return bridge(6, 10, num_tokens=num_tokens, **arguments)


@pytest.mark.parametrize(("bridge", "arguments"), BRIDGES)
def test_kept_features_of_16_bits_give_a_prompt_and_every_weight_a_gradient(bridge, arguments, features_BND):
    bridge = made(bridge, **arguments)
    prompt_BTP = bridge(features_BND.half())
    assert prompt_BTP.shape == (2, 6, 10) and prompt_BTP.dtype == torch.float32
    prompt_BTP.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bridge.parameters())


@pytest.mark.parametrize(("bridge", "arguments"), BRIDGES)
def test_an_image_alone_gives_what_it_gives_in_a_batch(bridge, arguments, features_BND):
    bridge = made(bridge, **arguments)
    torch.testing.assert_close(bridge(features_BND)[1:], bridge(features_BND[1:]))


@pytest.mark.parametrize(("bridge", "arguments"), BRIDGES)
def test_projection_std_is_that_of_the_last_layer(bridge, arguments):
    assert made(bridge, projection_std=1e-4, **arguments).projection.weight.std() < 2e-4
    assert made(bridge, **arguments).projection.weight.std() > 1e-1


def test_linear_by_hand():
    """Each token is normed by itself, then averaged: (-1, 1), (1, -1) and twice (-1, 1) have the mean (-.5, .5)."""
    bridge = LinearBridge(2, 1, num_tokens=1)
    nn.init.ones_(bridge.projection.bias)
    bridge.projection.weight.data = torch.tensor([[2.0, 10.0]])
    patches_1ND = torch.tensor([[[9.0, 9.0], [0.0, 100.0], [8.0, 4.0], [-3.0, -1.0], [5.0, 6.0]]])
    assert bridge(patches_1ND).item() == pytest.approx(-0.5 * 2 + 0.5 * 10 + 1, abs=1e-3)


def test_mlp_is_two_layers_with_a_gelu(features_BND):
    bridge = made(MLPBridge, num_tokens=16, hidden=5)
    normed = F.layer_norm(features_BND[:, 1:], (6,))
    expected = bridge.projection(nn.GELU()(bridge.expand(normed)))
    torch.testing.assert_close(bridge(features_BND), expected)
    assert bridge.expand.weight.shape == (5, 6)
    assert made(MLPBridge).expand.weight.shape == (10, 6)  # LLaVA-1.5's: as wide as the language model


def test_resampler_is_attention_over_image_and_queries(features_BND):
    """Flamingo's pseudo-code, with PyTorch's MultiheadAttention."""
    bridge = made(ResamplerBridge, **SMALL)
    net = bridge.resampler
    for norm in (module for module in net.modules() if isinstance(module, nn.LayerNorm)):
        nn.init.normal_(norm.weight, mean=1, std=0.3)
        nn.init.normal_(norm.bias, std=0.3)
    image, x = net.image(net.ln_vision(features_BND)), net.query_tokens.expand(2, -1, -1)
    for layer in net.layers:
        attention = nn.MultiheadAttention(12, 3, batch_first=True)
        attention.in_proj_weight.data = torch.cat([layer.query.weight, layer.kv.weight])
        attention.in_proj_bias.data = torch.cat([layer.query.bias, layer.kv.bias])
        attention.out_proj = layer.output
        queries = layer.query_norm(x)
        seen = torch.cat([layer.image_norm(image), queries], dim=1)
        x = x + attention(queries, seen, seen)[0]
        x = x + layer.contract(layer.expand(layer.mlp_norm(x)).clamp(min=0) ** 2)
    torch.testing.assert_close(bridge(features_BND), bridge.projection(net.norm(x)))


def test_weight_decay_leaves_the_resamplers_queries_alone():
    bridge = made(ResamplerBridge, **SMALL)
    decays = {id(p): group["weight_decay"] for group in AdamWCosine().groups(bridge) for p in group["params"]}
    assert decays[id(bridge.resampler.query_tokens)] == 0 < decays[id(bridge.projection.weight)]


@pytest.mark.parametrize(
    ("bridge", "arguments", "message"),
    [
        (LinearBridge, dict(num_tokens=0), "num_tokens=0 must be at least 1"),
        (MLPBridge, dict(hidden=0), "hidden=0 must be at least 1"),
        (ResamplerBridge, dict(hidden=10, heads=4, layers=0), r"layers=0 must.*hidden=10 cannot be split into heads=4"),
    ],
)
def test_sizes_that_cannot_be_are_named(bridge, arguments, message):
    with pytest.raises(ValueError, match=message):
        made(bridge, **arguments)


# ViT-g is 1408 wide, OPT-2.7B 2560. A layer from a to b has a * b + b weights, a norm 2 * a.
# Resampler with 24 queries, width 16, one block, 8 inner: queries 24 * 16, ln_vision, image 1408 * 16 + 16, three norms
#   and the last one 4 * 32, query, key, value and output 4 * (256 + 16), feed-forward 16 * 8 + 8 + 8 * 16 + 16.
COUNTED = [
    ("LinearBridge", {}, {"ln_vision": 2_816, "projection": 3_607_040}),
    ("MLPBridge", {"hidden": 50}, {"ln_vision": 2_816, "expand": 70_450, "projection": 130_560}),
    ("MLPBridge", {}, {"ln_vision": 2_816, "expand": 3_607_040, "projection": 6_556_160}),
    (
        "ResamplerBridge",
        dict(num_tokens=24, hidden=16, layers=1, heads=2, intermediate=8),
        {"resampler": 384 + 2_816 + 22_544 + 128 + 1_088 + 280, "projection": 43_520},
    ),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), COUNTED)
def test_params_counts_every_weight(name, arguments, expected):
    experiment = read(Path("experiments/vitg_opt27.yaml"))
    experiment.net["bridge"] = {
        "class_path": f"lit_blip2.model.bridge.{name}", "init_args": arguments
    }  # fmt: skip
    rows = count(sketch(experiment))
    found = {part: trainable for part, trainable, _ in rows if trainable}
    assert found == {f"bridge.{part}": number for part, number in expected.items()}


def test_params_counts_what_a_bridge_holds_itself():
    net = sketch(read(Path("experiments/vitg_opt27.yaml")))
    net.bridge = nn.ParameterList([nn.Parameter(torch.zeros(7))])
    assert ("bridge", 7, 0) in count(net)
