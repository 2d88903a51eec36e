"""ITG on tokens worked by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from lit_blip2.objectives.itg import ITG


def test_loss_by_hand():
    """Two words, logits all from the bias: (0, ln 3); smoothing .1 spreads .05 on each word."""
    itg = ITG(hidden=4, vocab_size=2, label_smoothing=0.1)
    with torch.no_grad():
        itg.bias.copy_(torch.tensor([0.0, math.log(3.0)]))
    loss = itg(torch.randn(3, 4), torch.tensor([1, 1, 0]), torch.zeros(2, 4))["loss"]
    right, wrong = -math.log(3 / 4), -math.log(1 / 4)
    expected = (2 * (0.95 * right + 0.05 * wrong) + 0.95 * wrong + 0.05 * right) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_random_head_starts_at_ln_of_the_vocabulary():
    torch.manual_seed(0)
    itg = ITG(hidden=32, vocab_size=30523)
    loss = itg(torch.randn(8, 32), torch.randint(0, 30523, (8,)), 0.02 * torch.randn(30523, 32))["loss"]
    assert loss.item() == pytest.approx(math.log(30523), abs=0.1)


def test_the_floor_of_smoothing():
    """1.358 is the entropy of the smoothed target over 30523 words: reached by the best logits."""
    vocabulary = 30523
    itg = ITG(hidden=2, vocab_size=vocabulary, label_smoothing=0.1)
    best = torch.full((vocabulary,), math.log(0.1 / vocabulary))
    best[7] = math.log(0.9 + 0.1 / vocabulary)
    with torch.no_grad():
        itg.bias.copy_(best)
    loss = itg(torch.randn(1, 2), torch.tensor([7]), torch.zeros(vocabulary, 2))["loss"]
    assert loss.item() == pytest.approx(1.358, abs=2e-3)


def test_no_target_is_no_loss():
    loss = ITG(hidden=2, vocab_size=5)(torch.empty(0, 2), torch.empty(0, dtype=torch.long), torch.zeros(5, 2))["loss"]
    assert loss.item() == 0.0


def test_the_mean_of_ranks_on_one_rank_is_the_mean_over_tokens():
    torch.manual_seed(0)
    hidden, targets, embeddings = torch.randn(4, 8), torch.tensor([1, 2, 0, 3]), torch.randn(5, 8)
    whole, own = ITG(8, 5), ITG(8, 5, mean_of_ranks=True)
    own.load_state_dict(whole.state_dict())
    expected = F.cross_entropy(whole.logits(hidden, embeddings), targets, label_smoothing=0.1)
    for objective in (whole, own):
        torch.testing.assert_close(objective(hidden, targets, embeddings)["loss"], expected)
