"""Stage 1's passes and losses: parts on and off, and two processes against one."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lit_blip2.model import masks
from lit_blip2.model.passes import Pass
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.stage1 import Stage1
from tests.objectives.masked_language import MASK, MLM
from tests.ranks import on_ranks

NAMES = ("itc", "itm", "itg")
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(NAMES, size)]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_trains_all_that_it_has(subset, make_stage1, make_batch):
    """No parameter is left without a gradient: DDP would stop there."""
    net = make_stage1(*subset)
    losses = net(*make_batch(4))
    assert set(losses) == {*subset, "total"}
    losses["total"].backward()
    assert all(p.grad is not None for p in net.parameters())
    torch.testing.assert_close(losses["total"], sum(losses[name] for name in subset))


def test_an_objective_that_is_off_has_no_parameters(make_stage1):
    names = {name.split(".")[0] for name, _ in make_stage1("itm").named_parameters()}
    assert names == {"qformer", "itm"}


def test_texts_without_room_are_refused(make_stage1):
    with pytest.raises(ValueError, match=r"max_text_tokens=12 must be at least 3 .* at most max_positions=11"):
        make_stage1("itc", max_positions=11)


def test_no_objective_is_refused(make_stage1):
    with pytest.raises(ValueError, match="itc, itm and itg are all null"):
        make_stage1()


def test_losses_do_not_depend_on_which_others_are_on(make_stage1, make_batch):
    batch, both = make_batch(4), make_stage1("itc", "itg")
    together = both(*batch)
    for name in ("itc", "itg"):
        alone = make_stage1(name)
        alone.load_state_dict({k: v for k, v in both.state_dict().items() if k in alone.state_dict()})
        torch.testing.assert_close(alone(*batch)[name], together[name])


def test_weights_scale_the_total(make_stage1, make_batch):
    net, batch = make_stage1(*NAMES), make_batch(4)
    before = net(*batch)
    net.itm.weight = 3.0
    torch.testing.assert_close(net(*batch)["total"], before["total"] + 2 * before["itm"])


@pytest.mark.parametrize("queries", [1, 3])
def test_a_batch_of_one(queries, make_stage1, make_batch):
    losses = make_stage1(*NAMES, num_queries=queries)(*make_batch(1))
    assert torch.isfinite(losses["total"]) and losses["itc"].abs() < 1e-6


def test_all_image_ids_equal(make_stage1, make_batch):
    """No negative is left: ITM learns from the true pairs alone."""
    net, (features, text, ids, uniform) = make_stage1(*NAMES), make_batch(4)
    losses = net(features, text, torch.zeros_like(ids), uniform)
    image = net.qformer.project_image(features)
    true_pairs = nn.functional.cross_entropy(net.match_logits(image, text), torch.ones(4, dtype=torch.long))
    torch.testing.assert_close(losses["itm"], true_pairs)


def test_matching_loss_is_that_of_the_drawn_pairs(make_stage1, make_batch):
    """Pairs formed by hand from the negatives that the draw gives."""
    from lit_blip2.objectives.itm import draw_negatives

    net, (features, text, ids, uniform) = make_stage1(*NAMES), make_batch(5)
    losses = net(features, text, ids, uniform)
    image = net.qformer.project_image(features)
    image_BQP, text_BP = net.encode_images(features)[0], net.encode_texts(text)
    cosine = torch.einsum("iqp,tp->itq", image_BQP, text_BP).amax(-1) / net.itc.temperature
    texts, _ = draw_negatives(cosine, ids, ids, uniform[:, 0])
    images, _ = draw_negatives(cosine.T, ids, ids, uniform[:, 1])
    logits = [net.match_logits(image.select(i), text.select(t)) for i, t in ((ids, ids), (ids, texts), (images, ids))]
    labels = torch.tensor([1] * 5 + [0] * 10)
    torch.testing.assert_close(losses["itm"], nn.functional.cross_entropy(torch.cat(logits), labels))
    assert (texts != ids).all() and (images != ids).all()


def test_without_hard_negatives_each_other_row_is_as_likely(make_stage1, make_batch):
    """Of the 4 others, number floor(4 u) is drawn, however sure ITC is of another."""
    net, (features, text, ids, _) = make_stage1(*NAMES), make_batch(5)
    uniform = torch.tensor([[0.1, 0.9], [0.3, 0.6], [0.6, 0.3], [0.9, 0.1], [0.1, 0.6]], dtype=torch.float64)
    texts, images = torch.tensor([1, 2, 3, 4, 0]), torch.tensor([4, 3, 1, 0, 2])
    net.itm.hard_negatives, net.itc.temperature.data = False, torch.tensor(0.001)
    image = net.qformer.project_image(features)
    logits = [net.match_logits(image.select(i), text.select(t)) for i, t in ((ids, ids), (ids, texts), (images, ids))]
    labels = torch.tensor([1] * 5 + [0] * 10)
    by_hand = nn.functional.cross_entropy(torch.cat(logits), labels)
    torch.testing.assert_close(net(features, text, ids, uniform)["itm"], by_hand)
    net.itm.hard_negatives = True
    assert not torch.isclose(net(features, text, ids, uniform)["itm"], by_hand)


def test_hard_negatives_begin_at_their_step(make_stage1, make_batch):
    """Before it losses are those of uniform negatives, to the last bit; from it on, and in evaluation, of hard ones."""
    net, batch = make_stage1(*NAMES), make_batch(5)
    net.itc.temperature.data = torch.tensor(0.001)
    hard = net(*batch)["itm"]
    net.itm.hard_negatives = False
    uniform = net(*batch)["itm"]
    net.itm.hard_negatives, net.itm.hard_negatives_from = True, 7
    assert not torch.isclose(hard, uniform)
    assert [torch.equal(net(*batch, step)["itm"], uniform) for step in (0, 6)] == [True, True]
    assert [torch.equal(net(*batch, step)["itm"], hard) for step in (7, 8, None)] == [True, True, True]


@pytest.mark.parametrize("others", [("itc",), NAMES], ids="+".join)
def test_a_fourth_objective_joins_without_a_change_to_the_others(others, make_stage1, make_batch):
    features, text, ids, uniform_B2 = make_batch(4)
    net, alone = make_stage1(*others, more_objectives={"mlm": MLM, "off": None}), make_stage1(*others)
    alone.load_state_dict({name: value for name, value in net.state_dict().items() if "mlm" not in name})
    uniform_BU = torch.cat([uniform_B2, torch.rand(4, 12, dtype=torch.float64)], dim=1)
    assert net.draws == uniform_BU.shape[1] and alone.draws == 2 and list(net.objectives) == [*others, "mlm"]
    losses, before = net(features, text, ids, uniform_BU), alone(features, text, ids, uniform_B2)
    for name in others:
        torch.testing.assert_close(losses[name], before[name])
    torch.testing.assert_close(losses["total"], before["total"] + losses["mlm"])
    losses["total"].backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_fourth_objective_stands_by_itself(make_stage1, make_batch):
    """Its loss by hand; nothing else is run or kept."""
    net, (features, text, ids, uniform_B2) = make_stage1(more_objectives={"mlm": MLM}), make_batch(4)
    uniform_BU = torch.cat([uniform_B2, torch.rand(4, 12, dtype=torch.float64)], dim=1)
    losses = net(features, text, ids, uniform_BU)
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"qformer", "mlm"}
    masked_L = net.mlm.masked(text, uniform_BU[:, 2:])
    shown = replace(text, ids_L=torch.where(masked_L, MASK, text.ids_L))
    image = net.qformer.project_image(features)
    (output,) = net.qformer([Pass(masks.BIDIRECTIONAL, image=image, text=shown)])
    wanted = nn.functional.cross_entropy(net.mlm.head(output.text_LD)[masked_L], text.ids_L[masked_L])
    torch.testing.assert_close(losses["mlm"], wanted)
    losses["total"].backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", ["qformer", "itm", "tokenizer", "lm", "total", "a.b", ""])
def test_a_name_that_is_taken_is_refused(name, make_stage1):
    with pytest.raises(ValueError, match=f"more_objectives: the name {name!r} is taken or no plain word"):
        make_stage1("itc", more_objectives={name: MLM})


def test_a_class_that_is_no_objective_is_refused(make_stage1):
    with pytest.raises(ValueError, match=r"more_objectives\.mlm: Linear has no draws, passes, loss"):
        make_stage1("itc", more_objectives={"mlm": nn.Linear})


class Lossy(nn.Module):
    """DDP wants forward() to give one loss."""

    def __init__(self, net: Stage1):
        super().__init__()
        self.net = net

    def forward(self, *batch):
        return self.net(*batch)["total"]


def half(batch, rank: int):
    features, text, ids, uniform = batch
    rows = slice(2 * rank, 2 * rank + 2)
    texts = [row[:n].tolist() for row, n in zip(text.padded(), text.lengths_B)]
    return features[rows], PackedText.from_lists(texts[rows]), ids[rows], uniform[rows]


def train_on_half(rank: int, nets: list[Stage1], batch) -> list[dict]:
    found = []
    for net in nets:
        model = nn.parallel.DistributedDataParallel(Lossy(net))
        loss = model(*half(batch, rank))
        loss.backward()
        mean = loss.detach() / 2
        dist.all_reduce(mean)
        found.append({"loss": mean, "grads": {name: p.grad for name, p in net.named_parameters()}})
    return found


@pytest.mark.run
def test_two_processes_are_one_with_the_double_batch(make_stage1, make_batch, tmp_path):
    """Loss and gradients, each objective on or off; texts of unequal lengths: the ranks hold 6 and 21 tokens."""
    batch = make_batch(4, lengths=[3, 3, 11, 10])
    nets = [make_stage1(*subset) for subset in SUBSETS]
    first, _ = on_ranks(2, tmp_path, train_on_half, nets, batch)
    for subset, net, found in zip(SUBSETS, nets, first, strict=True):
        loss = net(*batch)["total"]
        loss.backward()
        torch.testing.assert_close(found["loss"], loss.detach(), atol=1e-5, rtol=1e-5, msg=str(subset))
        for name, parameter in net.named_parameters():
            difference = (found["grads"][name] - parameter.grad).norm()
            assert difference <= 1e-5 + 1e-4 * parameter.grad.norm(), (subset, name)
