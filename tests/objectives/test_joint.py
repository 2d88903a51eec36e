"""Joint training's losses against those of the two stages, parts on and off, and two processes against one."""

from functools import partial
from itertools import combinations

import pytest
import torch
from torch import nn

from lit_blip2.model.bridge import QFormerBridge
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.gradients import gradient_metrics, gradients
from lit_blip2.objectives.joint import Joint
from lit_blip2.objectives.stage2 import Stage2
from tests.ranks import on_ranks

STAGE1 = ("itc", "itm", "itg")
NAMES = (*STAGE1, "lm")
SUBSETS = [subset for size in range(1, 5) for subset in combinations(NAMES, size)]


def captions(size: int) -> list[str]:
    return [" ".join(["a red ring"] * (1 + row % 3)) for row in range(size)]


@pytest.fixture
def batch(make_joint, make_batch):
    """What Joint.forward takes, for rows first to last of a batch of 4."""
    features, text, ids, uniform = make_batch(4, lengths=[3, 3, 11, 10])
    language = make_joint("lm").stage2.language

    def make(first: int = 0, last: int = 4):
        rows = slice(first, last)
        texts = [row[:n].tolist() for row, n in zip(text.padded(), text.lengths_B)][rows]
        target = language.tokenise([""] * len(texts), captions(4)[rows])
        return features[rows], ids[rows], PackedText.from_lists(texts), uniform[rows], target

    return make


def test_losses_are_those_of_the_two_stages(make_joint, make_stage1, batch):
    """Built and run apart, with the same weights on the same batch."""
    joint, (features, ids, text, uniform, target) = make_joint(*NAMES), batch()
    first = make_stage1(*STAGE1)
    first.load_state_dict(joint.stage1.state_dict())
    bridge = partial(QFormerBridge, qformer=lambda width: first.qformer)
    second = Stage2(first.vision, joint.stage2.language, bridge, joint.stage2.objective)
    second.bridge.projection.load_state_dict(joint.stage2.bridge.projection.state_dict())
    together, alone, after = (
        joint(features, ids, text, uniform, target),
        first(features, text, ids, uniform),
        second(features, target),
    )
    assert together.keys() == {*NAMES, "total"}
    for name in NAMES:
        expected = after["lm"] if name == "lm" else alone[name]
        torch.testing.assert_close(together[name], expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(together["total"], alone["total"] + after["total"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_trains_all_that_it_has(subset, make_joint, batch):
    """No parameter is left without a gradient, and what is off has none: DDP would stop there."""
    net = make_joint(*subset)
    losses = net(*batch())
    assert set(losses) == {*subset, "total"}
    losses["total"].backward()
    trained = dict(net.named_parameters())
    trained = {name: weight for name, weight in trained.items() if weight.requires_grad}
    assert all(weight.grad is not None for weight in trained.values())
    parts = {"stage1.itc", "stage1.itm", "stage1.itg", "stage2.bridge"} & {".".join(n.split(".")[:2]) for n in trained}
    assert parts == {f"stage1.{name}" if name != "lm" else "stage2.bridge" for name in subset}
    assert any(".text_mlp." in name for name in trained) == (subset != ("lm",))
    torch.testing.assert_close(losses["total"], sum(losses[name] for name in subset))


def test_no_objective_is_refused(make_joint):
    with pytest.raises(ValueError, match="itc, itm, itg and lm are all null"):
        make_joint()


@pytest.mark.parametrize("subset", [STAGE1, NAMES, ("itm", "lm"), ("lm",)], ids="+".join)
def test_image_work_and_query_pass_are_done_once(subset, make_joint, batch, monkeypatch):
    """One projection of the image; the language model adds passes of the Q-Former only where no other loss has one."""
    net, projected, passes = make_joint(*subset), [], []
    project, forward = net.qformer.project_image, net.qformer.forward
    monkeypatch.setattr(net.qformer, "project_image", lambda features: projected.append(features) or project(features))
    monkeypatch.setattr(net.qformer, "forward", lambda given: passes.append(len(given)) or forward(given))
    net(*batch())
    assert len(projected) == 1
    assert passes == {STAGE1: [3, 3], NAMES: [3, 3], ("itm", "lm"): [1, 3], ("lm",): [1]}[subset]


def test_weights_scale_the_total(make_joint, batch):
    net, given = make_joint(*NAMES), batch()
    before = net(*given)
    net.stage2.objective.weight, net.stage1.itc.weight = 3.0, 0.5
    assert {name: each.weight for name, each in net.objectives.items()} == {
        "itc": 0.5,
        "itm": 1.0,
        "itg": 1.0,
        "lm": 3.0,
    }
    torch.testing.assert_close(net(*given)["total"], before["total"] + 2 * before["lm"] - 0.5 * before["itc"])


def test_gradients_are_those_of_each_loss_alone(make_joint, batch):
    """By a backward of its own; and watching them changes neither `.grad` nor the step's gradient."""
    net, given = make_joint(*NAMES), batch()
    shared = list(net.qformer.parameters())
    by_hand = []
    for name in NAMES:
        net.zero_grad()
        net(*given)[name].backward()
        by_hand.append(
            torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in shared])
        )
    net.zero_grad()
    losses = net(*given)
    grads_KP = gradients({name: losses[name] for name in NAMES}, shared)
    assert all(weight.grad is None for weight in net.parameters())
    for grad_P, expected_P in zip(grads_KP, by_hand, strict=True):
        torch.testing.assert_close(grad_P, expected_P)
    losses["total"].backward()
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in shared]), sum(by_hand), atol=1e-5, rtol=1e-4)


def test_figures_by_hand():
    figures = gradient_metrics(["itc", "itg", "lm"], torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]))
    expected = {"grad_norm_itc": 5.0, "grad_norm_itg": 2.0, "grad_norm_lm": 0.0}
    expected |= {"grad_cos_itc_itg": 0.8, "grad_cos_itc_lm": 0.0, "grad_cos_itg_lm": 0.0}
    assert {name: figure.item() for name, figure in figures.items()} == pytest.approx(expected)


class Lossy(nn.Module):
    """DDP wants forward() to give one loss."""

    def __init__(self, net: Joint):
        super().__init__()
        self.net = net

    def forward(self, *given):
        losses = self.net(*given)
        self.seen_KP = gradients(
            {name: losses[name] for name in self.net.objectives}, list(self.net.qformer.parameters())
        )
        return losses["total"]


def train_on_half(rank: int, nets: list[Joint], halves: list) -> list[dict]:
    found = []
    for net in nets:
        model = nn.parallel.DistributedDataParallel(lossy := Lossy(net))
        model(*halves[rank]).backward()
        found.append(
            {"each": lossy.seen_KP, "grads": {n: p.grad for n, p in net.named_parameters() if p.requires_grad}}
        )
    return found


@pytest.mark.run
def test_two_processes_are_one_with_the_double_batch(make_joint, batch, tmp_path):
    """Gradients of the total and of each loss; texts and targets of unequal lengths on the ranks."""
    subsets = [NAMES, ("itm", "lm"), ("lm",)]
    nets, halves = [make_joint(*subset) for subset in subsets], [batch(0, 2), batch(2, 4)]
    first, _ = on_ranks(2, tmp_path, train_on_half, nets, halves)
    for subset, net, found in zip(subsets, nets, first, strict=True):
        losses = net(*batch())
        each_KP = gradients({name: losses[name] for name in subset}, list(net.qformer.parameters()))
        assert ((found["each"] - each_KP).norm(dim=1) <= 1e-5 + 1e-4 * each_KP.norm(dim=1)).all(), subset
        losses["total"].backward()
        for name, grad in found["grads"].items():
            expected = net.get_parameter(name).grad
            assert (grad - expected).norm() <= 1e-5 + 1e-4 * expected.norm(), (subset, name)
