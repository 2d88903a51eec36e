"""Recomputed tensors: the same gradients, and autograd really does not keep them."""

from contextlib import nullcontext

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_blip2.model import masks, qformer
from lit_blip2.model.passes import Pass
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.recompute import recomputed
from lit_blip2.model.text import PackedText

WIDTH, LAYERS, INNER, PATCHES, QUERIES = 32, 3, 128, 9, 4


class Storages(TorchDispatchMode):
    """Follows every storage that an operation in it makes."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for storage in (each.untyped_storage() for each in tree_leaves(result) if isinstance(each, torch.Tensor)):
            self.sizes[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def alive(self) -> int:
        """Bytes of those that somebody still holds."""
        return sum(size for reference, size in self.sizes.values() if not reference.expired())


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


def forward_and_backward() -> tuple[int, list[torch.Tensor]]:
    """Of every kind of pass: bytes that the forward leaves for the backward, and the gradients."""
    torch.manual_seed(0)
    sizes = dict(hidden=WIDTH, layers=LAYERS, heads=2, intermediate=INNER, vocab_size=50, num_queries=QUERIES)
    net = QFormer(vision_width=12, **sizes, dropout=0.0)
    text, drawn = PackedText.from_lists([[7, 8], [9], [4, 5, 6]]), torch.tensor([2, 2, 0])
    features_BND = torch.randn(3, PATCHES, 12)
    storages = Storages()
    with storages:
        image = net.project_image(features_BND)
        outputs = net(
            [
                Pass(masks.UNIMODAL, image=image),
                Pass(masks.MULTIMODAL_CAUSAL, text=text, context=0),
                Pass(masks.BIDIRECTIONAL, image=image.select(drawn), text=text),
            ]
        )
    kept = storages.alive()
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
