"""Recomputed tensors: the same gradients, and autograd really does not keep them."""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from lit_blip2.memory import allocated
from lit_blip2.model import masks, qformer
from lit_blip2.model.passes import Output, Pass
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.recompute import recomputed
from lit_blip2.model.text import PackedText

WIDTH, LAYERS, INNER, PATCHES, QUERIES = 32, 3, 128, 9, 4


def gradients(again):
    """Of a linear layer on squares; `again` counts how often the squares are made again, None keeps them."""
    torch.manual_seed(0)
    x, linear = torch.randn(5, 3, requires_grad=True), torch.nn.Linear(3, 2)
    squares = x.square()

    def make():
        again.append(1)
        return x.square()

    with recomputed([] if again is None else [(squares, make)]):
        out = linear(squares)
    out.sin().sum().backward()
    return x.grad, linear.weight.grad, linear.bias.grad


def forward_of_every_pass() -> tuple[QFormer, Callable[[], list[Output]]]:
    """A Q-Former, and what runs it."""
    torch.manual_seed(0)
    sizes = dict(hidden=WIDTH, layers=LAYERS, heads=2, intermediate=INNER, vocab_size=50, num_queries=QUERIES)
    net = QFormer(vision_width=12, **sizes, dropout=0.0)
    text, drawn = PackedText.from_lists([[7, 8], [9], [4, 5, 6]]), torch.tensor([2, 2, 0])
    features_BND = torch.randn(3, PATCHES, 12)

    def forward() -> list[Output]:
        image = net.project_image(features_BND)
        return net(
            [
                Pass(masks.UNIMODAL, image=image),
                Pass(masks.MULTIMODAL_CAUSAL, text=text, context=0),
                Pass(masks.BIDIRECTIONAL, image=image.select(drawn), text=text),
            ]
        )

    return net, forward


def forward_and_backward() -> tuple[int, list[torch.Tensor]]:
    """Bytes that a forward leaves for the backward, and the gradients."""
    net, forward = forward_of_every_pass()
    outputs: list[Output] = []
    kept, _ = allocated(lambda: outputs.extend(forward()))
    sum(part.sin().sum() for output in outputs for part in output if part is not None).backward()
    return kept, [parameter.grad for parameter in net.parameters()]


def test_same_gradients_from_a_tensor_made_once_more():
    again = []
    for ours, expected in zip(gradients(again), gradients(None)):
        assert torch.equal(ours, expected)
    assert len(again) == 1


def test_the_qformer_does_not_keep_what_it_can_make_again(monkeypatch):
    """Without recomputation a forward keeps more: the tensors' bytes, less 2 % at most for the table that the functions
    hold."""
    kept, grads = forward_and_backward()
    monkeypatch.setattr(qformer, "recomputed", lambda makers: nullcontext())
    kept_whole, expected = forward_and_backward()
    queries, words, cross_layers = 2 * 3 * QUERIES, 2 * 6, 2
    rows = queries + words
    attended = LAYERS * rows * WIDTH + cross_layers * queries * WIDTH
    gelus, gathered = LAYERS * rows * INNER, cross_layers * 2 * 3 * PATCHES * WIDTH
    promised = 4 * (attended + gelus + gathered)  # bytes, float32
    assert 0.98 * promised <= kept_whole - kept <= promised
    for ours, theirs in zip(grads, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_forward_without_a_backward_leaves_nothing():
    """An operation that keeps its own output must not hold itself."""
    _, forward = forward_of_every_pass()

    def work() -> None:
        forward()

    assert allocated(work)[0] == 0
