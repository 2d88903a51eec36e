"""Weights are the same in any float type, and other weights are told apart."""

from itertools import product

import pytest
import torch
from torch import Tensor

from lit_blip2.signature import difference, signature

TYPES = [torch.float32, torch.float16, torch.bfloat16]


def some_weights() -> list[Tensor]:
    """Of a network: matrices, a bias of small numbers, a norm's ones, one number, zeros."""
    rng = torch.Generator().manual_seed(0)
    matrices = [torch.randn(size, generator=rng) * 0.02 for size in ((40, 30), (5, 3, 3), (4000, 11))]
    return [*matrices, torch.randn(30, generator=rng) * 1e-6, torch.ones(30), torch.tensor(0.07), torch.zeros(30)]


def held(weights: list[Tensor], *types: torch.dtype) -> list[Tensor]:
    """Weights that were stored in one type after the other."""
    for dtype in types:
        weights = [each.to(dtype) for each in weights]
    return weights


def test_the_same_weights_pass_in_whichever_types_they_were_held():
    seen = [signature(held(some_weights(), *types)) for types in product(TYPES, TYPES, TYPES)]
    assert [difference(one, two) for one in seen for two in seen] == [""] * len(seen) ** 2
    lavis = [each.half() if each.ndim > 1 else each for each in some_weights()]  # matrices in half precision alone
    assert [difference(signature(lavis), one) for one in seen] == [""] * len(seen)


@pytest.mark.parametrize("types", product(TYPES, TYPES))
def test_weights_that_were_rescaled_or_trained_a_little_are_others(types):
    weights, rng = some_weights(), torch.Generator().manual_seed(1)
    rescaled = [each * 1.02 for each in weights]
    trained = [each + 1e-4 * torch.randn(each.shape, generator=rng).sign() for each in weights]
    one = signature(held(weights, types[0]))
    for other in (rescaled, trained, [each.flip(0) if each.ndim else each for each in weights]):
        assert "of other numbers in" in difference(one, signature(held(other, types[1])))


def test_float32_tells_the_least_change_and_a_change_between_the_numbers_looked_at():
    weights = some_weights()
    assert difference(signature(weights), signature([each * 1.0001 for each in weights]))
    pruned = [each.clone() for each in weights]
    pruned[2][1001:1100] = 0  # rows of which no number is looked at
    told = "of other numbers in 1 of 7 weights, the first is weight 2"
    assert difference(signature(weights), signature(pruned)).startswith(told)
    assert difference(signature(weights), signature(weights[:-1])) == "of 7 weights, here 6, or of other sizes"


def test_an_older_signature_tells_signs():
    weights = some_weights()[:1]
    older = "37b094d890ac6469"
    assert difference(older, signature(weights)) == difference(older, signature([weights[0] * 2])) == ""
    assert difference(older, signature([-weights[0]])) == "of other signs"
