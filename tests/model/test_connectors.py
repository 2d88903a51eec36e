"""Bridges with a file of their own: what each computes by hand or against another implementation, that every weight
learns, and which numbers of tokens they refuse."""

from functools import partial

import pytest
import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import nn
from torch.nn import functional as F

from lit_blip2.model.abstractor import AbstractorBridge
from lit_blip2.model.bliva import BlivaBridge
from lit_blip2.model.bridge import LinearBridge, QFormerBridge
from lit_blip2.model.matryoshka import MatryoshkaBridge
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.shuffle import ShuffleBridge

SIZES = dict(num_queries=4, hidden=12, layers=2, heads=3, intermediate=20, dropout=0.0, vocab_size=None, init_std=0.3)
QFORMER = partial(QFormer, **SIZES)
ABSTRACTOR = partial(AbstractorBridge, num_tokens=4, hidden=8, layers=2)
SHUFFLE = partial(ShuffleBridge, num_tokens=4, side=4)
BLIVA, MATRYOSHKA = partial(BlivaBridge, qformer=QFORMER), partial(MatryoshkaBridge, qformer=QFORMER)
ALL = {"abstractor": (ABSTRACTOR, 4), "shuffle": (SHUFFLE, 4), "bliva": (BLIVA, 20), "matryoshka": (MATRYOSHKA, 4)}


@pytest.fixture
def features_BND():
    """Two images: [CLS] and 4 x 4 patches, 6 wide."""
    return torch.randn(2, 17, 6, generator=torch.Generator().manual_seed(0))


def made(bridge, **arguments):
    torch.manual_seed(0)
    return bridge(6, 10, **arguments).eval()


@pytest.mark.parametrize(("bridge", "tokens"), ALL.values(), ids=ALL)
def test_features_of_16_bits_give_a_prompt_and_every_weight_a_gradient(bridge, tokens, features_BND):
    bridge = made(bridge)
    prompt_BTP = bridge(features_BND.half())
    assert prompt_BTP.shape == (2, tokens, 10) and prompt_BTP.dtype == torch.float32
    prompt_BTP.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bridge.parameters())


@pytest.mark.parametrize(("bridge", "tokens"), ALL.values(), ids=ALL)
def test_an_image_alone_gives_what_it_gives_in_a_batch(bridge, tokens, features_BND):
    bridge = made(bridge)
    torch.testing.assert_close(bridge(features_BND)[1:], bridge(features_BND[1:]))


@pytest.mark.parametrize(("bridge", "tokens"), ALL.values(), ids=ALL)
def test_weights_make_the_same_bridge_again(bridge, tokens, features_BND, tmp_path):
    first, second = made(bridge), bridge(6, 10).eval()
    torch.save(first.state_dict(), tmp_path / "it.pt")
    second.load_state_dict(torch.load(tmp_path / "it.pt"))
    assert torch.equal(first(features_BND), second(features_BND))


@pytest.mark.parametrize(("bridge", "tokens"), ALL.values(), ids=ALL)
def test_projection_std_is_that_of_the_last_layer(bridge, tokens):
    """What an lr_scale of net.bridge.projection reaches, BLIVA's patches too."""
    last = [p for name, p in made(bridge, projection_std=1e-4).named_parameters() if name.startswith("projection")]
    assert last and all(p.std() < 2e-4 for p in last if p.ndim > 1)
    assert made(bridge).projection.weight.std() > 1e-1


def test_shuffle_by_hand():
    """[CLS], which must not be seen, and patches that say their number, as they are: without norm and projection."""
    bridge = ShuffleBridge(1, 4, num_tokens=4, side=4)
    bridge.ln_vision, bridge.projection = nn.Identity(), nn.Identity()
    numbers_1ND = torch.tensor([1e6, *range(16)])[None, :, None]
    assert bridge(numbers_1ND).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]


def test_shuffle_of_as_many_tokens_as_patches_is_the_linear_bridge(features_BND):
    shuffle, linear = made(ShuffleBridge, num_tokens=16, side=4), made(LinearBridge, num_tokens=16)
    linear.load_state_dict(shuffle.state_dict())
    assert torch.equal(shuffle(features_BND), linear(features_BND))


def test_shuffle_is_torchs_pixel_unshuffle(features_BND):
    """Which takes the channels apart first: the same numbers of each token in another order."""
    bridge = made(SHUFFLE)
    normed_BDGG = F.layer_norm(features_BND[:, 1:], (6,)).mT.unflatten(2, (4, 4))
    theirs_BTSD = F.pixel_unshuffle(normed_BDGG, 2).flatten(2).mT.unflatten(2, (6, 4)).transpose(2, 3)
    torch.testing.assert_close(bridge(features_BND), bridge.projection(theirs_BTSD.flatten(2)))


def test_abstractor_is_honeybees(features_BND):
    """Two stages of timm's RegNet around an average pooling, with the same weights."""
    bridge = made(ABSTRACTOR)
    for norm in (module for module in bridge.modules() if isinstance(module, nn.LayerNorm)):
        nn.init.normal_(norm.weight, mean=1, std=0.3)
        nn.init.normal_(norm.bias, std=0.3)
    stages = [
        RegStage(2, width, 8, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d) for width in (6, 8)
    ]
    for ours, theirs in zip((bridge.patches, bridge.boxes), stages):
        state = {}
        for number, block in enumerate(ours, 1):
            state |= {f"b{number}.{name}": value for name, value in in_timm(block).items()}
        theirs.load_state_dict(state)
    grid_BDGG = F.layer_norm(features_BND[:, 1:], (6,)) * bridge.ln_vision.weight + bridge.ln_vision.bias
    boxes_BDHV = stages[1](F.avg_pool2d(stages[0](grid_BDGG.mT.unflatten(2, (4, 4))), 2))
    readout = nn.Sequential(bridge.expand, nn.SiLU(), bridge.projection)
    torch.testing.assert_close(bridge(features_BND), readout(boxes_BDHV.flatten(2).mT), atol=1e-5, rtol=1e-5)


def in_timm(block: nn.Module) -> dict[str, torch.Tensor]:
    """A block's weights by the names of timm's Bottleneck, whose linear layers are convolutions of 1 x 1."""
    names = {
        "enter": "conv1.conv", "enter_norm": "conv1.bn", "spread": "conv2.conv", "spread_norm": "conv2.bn",
        "squeeze": "se.fc1", "excite": "se.fc2", "leave": "conv3.conv", "leave_norm": "conv3.bn",
        "skip": "downsample.conv", "skip_norm": "downsample.bn",
    }  # fmt: skip
    parts = [(name.split("."), value) for name, value in block.state_dict().items()]
    return {
        f"{names[part]}.{kind}": value[..., None, None] if part in ("squeeze", "excite") and kind == "weight" else value
        for (part, kind), value in parts
    }


def test_bliva_is_queries_then_patches(features_BND):
    bridge = made(BLIVA)
    alone = made(partial(QFormerBridge, qformer=QFORMER))
    missing, _ = alone.load_state_dict(bridge.state_dict(), strict=False)
    assert not missing
    queries_BQP, patches_BNP = bridge(features_BND).split([4, 16], dim=1)
    torch.testing.assert_close(queries_BQP, alone(features_BND))
    normed_BND = F.layer_norm(features_BND[:, 1:], (6,))
    torch.testing.assert_close(patches_BNP, bridge.projection_patches(normed_BND))


@pytest.mark.parametrize("first", [1, 3])
def test_the_first_queries_are_a_q_former_of_so_many(first, features_BND):
    """The others are not there: given as an argument, or set for evaluation."""
    every = made(MATRYOSHKA)
    few = made(partial(QFormerBridge, qformer=partial(QFORMER, num_queries=first)))
    state = every.state_dict()
    few.load_state_dict(state | {"qformer.query_tokens": state["qformer.query_tokens"][:first]})
    torch.testing.assert_close(every(features_BND, first), few(features_BND))
    chosen = made(MATRYOSHKA, first=first)
    chosen.load_state_dict(state)
    assert torch.equal(chosen(features_BND), every(features_BND, first))
    assert not torch.allclose(every(features_BND)[:, :first], few(features_BND), atol=1e-3)


def test_all_queries_of_a_matryoshka_are_a_q_former(features_BND):
    every, plain = made(MATRYOSHKA), made(partial(QFormerBridge, qformer=QFORMER))
    plain.load_state_dict(every.state_dict())
    assert torch.equal(every(features_BND), plain(features_BND))
    assert torch.equal(every(features_BND, 4), plain(features_BND))


def test_queries_that_a_step_leaves_out_get_no_gradient(features_BND):
    bridge = made(MATRYOSHKA)
    bridge(features_BND, 3).square().sum().backward()
    assert (bridge.qformer.query_tokens.grad.abs().sum(1) > 0).tolist() == [True, True, True, False]


def test_numbers_of_queries_are_drawn_evenly_by_seed_and_step():
    bridge = made(MATRYOSHKA)
    drawn = [bridge.draw(0, step) for step in range(4000)]
    counts = torch.bincount(torch.tensor(drawn), minlength=5)
    assert counts[0] == 0 and ((counts[1:] - 1000).abs() < 110).all()  # 4 standard deviations
    assert drawn[:50] == [made(MATRYOSHKA).draw(0, step) for step in range(50)]
    assert drawn[:50] != [bridge.draw(1, step) for step in range(50)]


@pytest.mark.parametrize(
    ("bridge", "arguments", "message"),
    [
        (ShuffleBridge, dict(num_tokens=24, side=8), "num_tokens=24: 8 x 8 .* choose one of 1, 2, 4, 8, 16, 32, 64$"),
        (ShuffleBridge, dict(num_tokens=128, side=8), "num_tokens=128: 8 x 8 patches do not fall into so many boxes"),
        (ShuffleBridge, dict(num_tokens=0), "num_tokens=0: 16 x 16 patches .* choose one of 1, 2, 4, 8, 16, 32, 64"),
        (AbstractorBridge, dict(num_tokens=0, layers=0), "num_tokens=0 must be at least 1; layers=0 must"),
        (MATRYOSHKA, dict(first=5), r"first=5 must lie in 1\.\.4, the number of queries"),
        (MATRYOSHKA, dict(first=0), r"first=0 must lie in 1\.\.4"),
        (MATRYOSHKA, dict(qformer=partial(QFORMER, windows=True)), "qformer.windows=true: the first queries would see"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(bridge, arguments, message):
    with pytest.raises(ValueError, match=message):
        made(bridge, **arguments)


def test_what_does_not_fit_an_image_is_refused_when_one_comes(features_BND):
    with pytest.raises(ValueError, match=r"an image has 4 x 4 patches, .* built for side=8: set bridge\.side=4"):
        made(ShuffleBridge, num_tokens=4, side=8)(features_BND)
    with pytest.raises(ValueError, match="num_tokens=5 would be 1 x 5 boxes on 4 x 4 patches: choose the product of"):
        made(partial(ABSTRACTOR, num_tokens=5))(features_BND)
