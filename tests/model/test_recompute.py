"""Recomputed tensors: the same gradients, and the function is really what autograd kept."""

import torch

from lit_blip2.model.recompute import recomputed


def gradients(again):
    """Of a linear layer on squares; `again` counts how often the squares are made again, None keeps them."""
    torch.manual_seed(0)
    x, linear = torch.randn(5, 3, requires_grad=True), torch.nn.Linear(3, 2)
    squares = x.square()

    def make():
        again.append(1)
        return x.detach().square()

    with recomputed([] if again is None else [(squares, make)]):
        out = linear(squares)
    out.sin().sum().backward()
    return x.grad, linear.weight.grad, linear.bias.grad


def test_same_gradients_from_a_tensor_made_once_more():
    again = []
    for ours, expected in zip(gradients(again), gradients(None)):
        assert torch.equal(ours, expected)
    assert len(again) == 1
