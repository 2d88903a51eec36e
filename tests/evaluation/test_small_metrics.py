import math

import numpy as np
import pytest
import torch

from lit_blip2.evaluation.binding import binding_items
from lit_blip2.evaluation.queries import query_usage


def binding_accuracy(true_P, swapped_P) -> float:
    """What a run logs."""
    return binding_items(true_P, swapped_P, np.arange(len(true_P)), np.arange(len(true_P))).value()


def test_binding_counts_ties_half():
    assert binding_accuracy(torch.tensor([2.0, 0.0, 1.0, 5.0]), torch.tensor([1.0, 1.0, 1.0, 4.0])) == 0.625
    assert binding_accuracy(torch.zeros(9), torch.zeros(9)) == 0.5


def test_binding_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match="nan"):
        binding_accuracy(torch.tensor([float("nan")]), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"\(0,\)"):
        binding_accuracy(torch.zeros(0), torch.zeros(0))


def test_query_usage():
    counts, entropy, share = query_usage(torch.tensor([[0, 0], [2, 2]]), 4)
    assert counts.tolist() == [2, 0, 2, 0]
    assert entropy == pytest.approx(math.log(2)) and share == pytest.approx(0.5)
    assert query_usage(torch.arange(8), 8)[2] == pytest.approx(1)
    assert query_usage(torch.zeros(5, dtype=torch.long), 8)[1:] == (0, 0)
    assert query_usage(torch.zeros(5, dtype=torch.long), 1)[1:] == (0, 0)
    with pytest.raises(ValueError, match="query 4 won"):
        query_usage(torch.tensor([4]), 4)
