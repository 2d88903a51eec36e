"""ITM: the draw of negatives and the loss, by hand."""

import math

import pytest
import torch

from lit_blip2.objectives.itm import ITM, draw_negatives


def test_draw_follows_the_softmax():
    """Row 0 may draw columns 1 and 2 with odds 3 : 1, so u < .75 gives column 1."""
    logits = torch.tensor([[9.0, math.log(3.0), 0.0]])
    ids, columns = torch.tensor([0]), torch.tensor([0, 1, 2])
    for u, expected in ((0.0, 1), (0.74, 1), (0.76, 2), (1 - 2**-53, 2)):
        drawn, weight = draw_negatives(logits, ids, columns, torch.tensor([u], dtype=torch.float64))
        assert drawn.item() == expected and weight.item() == 1.0


def test_frequencies_match_the_softmax():
    torch.manual_seed(0)
    logits = torch.randn(1, 6).expand(20000, -1)
    drawn, _ = draw_negatives(logits, torch.full((20000,), 2), torch.arange(6), torch.rand(20000, dtype=torch.float64))
    wanted = logits[0].masked_fill(torch.arange(6) == 2, -torch.inf).softmax(0)
    assert torch.allclose(torch.bincount(drawn, minlength=6) / 20000, wanted, atol=0.02)


def test_a_true_match_is_never_drawn():
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([1, 1, 2, 2, 2, 3])
    logits = 50 * torch.randn(6, 6, generator=generator) + 100 * (ids[:, None] == ids[None])
    for _ in range(50):
        uniforms = torch.rand(6, generator=generator, dtype=torch.float64)
        drawn, weight = draw_negatives(logits, ids, ids, uniforms)
        assert (ids[drawn] != ids).all() and weight.eq(1).all()


def test_all_ids_equal_drops_the_rows():
    ids = torch.full((3,), 7)
    drawn, weight = draw_negatives(torch.zeros(3, 3), ids, ids, torch.rand(3, dtype=torch.float64))
    assert weight.eq(0).all() and drawn.eq(0).all()


def test_loss_counts_kept_pairs_only():
    itm = ITM(hidden=2)
    with torch.no_grad():
        itm.head.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    query = torch.tensor([[[2.0, 5.0], [0.0, 5.0]], [[-1.0, 0.0], [-1.0, 0.0]], [[99.0, 0.0], [99.0, 0.0]]])
    assert torch.equal(itm.logits(query)[:2], torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    loss = itm(query, torch.tensor([1, 0, 0]), torch.tensor([1.0, 1.0, 0.0]))["loss"]
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)


def test_a_constant_predictor_scores_its_known_loss():
    """One match in three pairs: .6365 at best without looking."""
    itm = ITM(hidden=2)
    with torch.no_grad():
        itm.head.bias.copy_(torch.tensor([math.log(2.0), 0.0]))
    loss = itm(torch.zeros(3, 1, 2), torch.tensor([1, 0, 0]), torch.ones(3))["loss"]
    assert loss.item() == pytest.approx(0.6365, abs=1e-4)


def test_a_step_that_begins_nothing_is_refused():
    with pytest.raises(ValueError, match="hard_negatives_from=-1 must not be negative; 0 draws them throughout"):
        ITM(hidden=2, hard_negatives_from=-1)
    with pytest.raises(ValueError, match=r"hard_negatives=false draws uniformly in all steps, and .*=9 .* set it to 0"):
        ITM(hidden=2, hard_negatives=False, hard_negatives_from=9)
