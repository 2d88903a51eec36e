"""AdamW's groups and the schedule, by hand."""

import math

import pytest
import torch
from torch import nn

from lit_blip2.lit.optim import AdamWCosine


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(3, 4))
        self.linear, self.norm, self.frozen = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4).requires_grad_(False)
        self.temperature = nn.Parameter(torch.tensor(0.07))


def rates(optimization: AdamWCosine, steps: int) -> list[float]:
    optimizer, schedule = optimization(Small(), steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_decay_is_for_matrices_alone():
    module = Small()
    groups = {group["weight_decay"]: group["params"] for group in AdamWCosine().groups(module)}
    assert [id(p) for p in groups[0.05]] == [id(module.linear.weight)]
    assert len(groups[0.0]) == 5  # queries, bias, two of the norm, temperature; nothing frozen


def test_warm_up_then_cosine_per_step():
    seen = rates(AdamWCosine(lr=1.0, min_lr=0.5, warmup_steps=3), 7)
    assert seen[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    cosine = [0.5 + 0.25 * (1 + math.cos(math.pi * i / 4)) for i in range(5)]
    assert seen[3:] == pytest.approx(cosine)


def test_no_warm_up():
    assert rates(AdamWCosine(lr=1.0, warmup_steps=0), 4) == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0])


def test_betas_are_set():
    optimizer, _ = AdamWCosine(betas=(0.9, 0.98), warmup_steps=1)(Small(), 5)
    assert all(group["betas"] == (0.9, 0.98) for group in optimizer.param_groups)


def test_rates_by_name():
    groups = AdamWCosine(lr=1.0, lr_scale={"linear": 20.0}).groups(Small())
    assert {(group["weight_decay"], group["lr"]) for group in groups} == {(0.05, 20.0), (0.0, 20.0), (0.0, 1.0)}


def test_a_prolonged_run_takes_the_longer_course():
    short, long = (AdamWCosine(lr=1.0, warmup_steps=2) for _ in range(2))
    optimizer, schedule = short(Small(), 6)
    for _ in range(6):
        optimizer.step()
        schedule.step()
    resumed, course = long(Small(), 12)
    resumed.load_state_dict(optimizer.state_dict())
    course.load_state_dict(schedule.state_dict())
    resumed.step()
    course.step()
    assert resumed.param_groups[0]["lr"] == pytest.approx(rates(AdamWCosine(lr=1.0, warmup_steps=2), 12)[7])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps=5 must be less than trainer.max_steps=5"):
        AdamWCosine(warmup_steps=5)(Small(), 5)
    with pytest.raises(ValueError, match=r"set trainer.max_steps"):
        AdamWCosine()(Small(), -1)
    with pytest.raises(ValueError, match="nothing"):
        AdamWCosine(lr_scale={"nothing": 2.0}).groups(Small())


@pytest.mark.parametrize("values", [dict(lr=0.0), dict(lr=-1.0), dict(lr=1e-4, min_lr=2e-4), dict(warmup_steps=-1)])
def test_rates_that_make_no_schedule_are_refused(values):
    with pytest.raises(ValueError, match="lr must be positive, min_lr between 0 and lr, warmup_steps not negative"):
        AdamWCosine(**values)


class Encoder(nn.Module):
    """Named as an image encoder of three blocks is inside a stage."""

    def __init__(self):
        super().__init__()
        self.vision = nn.Module()
        self.vision.encoder = nn.Module()
        self.vision.encoder.pos_embed = nn.Parameter(torch.ones(1, 2, 4))
        self.vision.encoder.patch_embed = nn.Linear(4, 4)
        self.vision.encoder.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.qformer = nn.Linear(4, 4)


def test_layer_decay_by_hand():
    module, names = Encoder(), {}
    for name, parameter in module.named_parameters():
        names[id(parameter)] = name
    groups = AdamWCosine(lr=1.0, layer_decay=0.5).groups(module)
    rate_of = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert rate_of["qformer.weight"] == 1
    assert [rate_of[f"vision.encoder.blocks.{i}.weight"] for i in range(3)] == [1 / 8, 1 / 4, 1 / 2]
    assert rate_of["vision.encoder.patch_embed.bias"] == rate_of["vision.encoder.pos_embed"] == 1 / 16
    decay_of = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay_of["vision.encoder.pos_embed"] == 0 and decay_of["vision.encoder.patch_embed.weight"] == 0.05


def test_layer_decay_changes_the_update():
    """Adam's first step is the learning rate, whatever the gradient."""
    module = Encoder()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer, _ = AdamWCosine(lr=0.1, warmup_steps=0, weight_decay=0, layer_decay=0.5)(module, 5)
    sum(p.square().sum() for p in module.parameters()).backward()
    optimizer.step()
    moved = {name: (p - before[name]).abs().max().item() for name, p in module.named_parameters()}
    assert moved["vision.encoder.blocks.0.weight"] == pytest.approx(0.1 / 8, rel=1e-3)
    assert moved["vision.encoder.blocks.2.weight"] == pytest.approx(0.1 / 2, rel=1e-3)
    assert moved["qformer.weight"] == pytest.approx(0.1, rel=1e-3)


def test_layer_decay_of_a_frozen_encoder_is_refused():
    module = Encoder()
    module.vision.requires_grad_(False)
    with pytest.raises(ValueError, match=r"layer_decay=0.9 and the image encoder is frozen"):
        AdamWCosine(layer_decay=0.9).groups(module)
    with pytest.raises(ValueError, match=r"layer_decay=1.5 must lie in"):
        AdamWCosine(layer_decay=1.5)


def test_a_staircase_is_the_originals():
    """Its cosine counts epochs from the run's start, and the first has the whole rate once it is warm."""
    seen = rates(AdamWCosine(lr=1.0, min_lr=0.2, warmup_steps=2, hold_steps=4), 12)
    cosine = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * epoch / 3)) for epoch in range(3)]
    assert seen[:2] == pytest.approx([1 / 3, 2 / 3])
    assert seen[2:12] == pytest.approx([cosine[0]] * 2 + [cosine[1]] * 4 + [cosine[2]] * 4)
    with pytest.raises(ValueError, match="hold_steps=0 must be at least 1"):
        AdamWCosine(hold_steps=0)
    with pytest.raises(ValueError, match="hold_steps=9 must not be less than warmup_steps=10"):
        AdamWCosine(warmup_steps=10, hold_steps=9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"betas": (1.0, 0.98)}, r"betas=\[1\.0, 0\.98\]: each must be at least 0 and less than 1"),
        ({"betas": (0.9, -0.1)}, r"betas=\[0\.9, -0\.1\]: each must be"),
        ({"weight_decay": -0.05}, r"weight_decay=-0\.05, lr_scale=\{\}: neither may be negative"),
        ({"lr_scale": {"net.bridge": -1.0}}, r"lr_scale=\{'net\.bridge': -1\.0\}: neither may be negative"),
    ],
)
def test_numbers_that_no_optimiser_can_use_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        AdamWCosine(**arguments)
    AdamWCosine(betas=(0.0, 0.0), weight_decay=0.0, lr_scale={"net.bridge": 0.0})
