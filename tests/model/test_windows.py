"""Queries with a window each: the mask by hand, and that it really hides."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from lit_blip2.lit.callbacks.attention import query_maps
from lit_blip2.model import masks
from lit_blip2.model.passes import Pass
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.text import PackedText

SIZES = dict(num_queries=4, hidden=24, layers=1, heads=4, intermediate=40, dropout=0.0, vocab_size=50, init_std=0.3)


def made(**arguments) -> QFormer:
    torch.manual_seed(0)
    return QFormer(12, **SIZES | arguments).eval()


@pytest.fixture
def features_BND():
    """Three images: [CLS] and 4 x 4 patches."""
    return torch.randn(3, 17, 12, generator=torch.Generator().manual_seed(1))


def queries(qformer, features_BND):
    (output,) = qformer([Pass(masks.UNIMODAL, image=qformer.project_image(features_BND))])
    return output.query_RQD


def test_windows_are_as_drawn():
    lines = [line.split()[1:] for line in masks.windows.__doc__.splitlines() if line.strip().startswith("q ")]
    drawn = torch.tensor([[mark == "x" for mark in line] for line in lines])
    assert torch.equal(masks.windows(4, 17), drawn)
    assert torch.equal(masks.windows(4, 16), drawn[:, 1:])


def test_windows_that_do_not_divide_the_patches_share_some():
    """8 x 8 patches for 24 queries, 4 rows of 6: the first two of a row share column 1, as pool's boxes do."""
    seen_QGG = masks.windows(24, 65)[:, 1:].unflatten(1, (8, 8))
    assert seen_QGG[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert seen_QGG[1].nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert seen_QGG.any(0).all() and (seen_QGG.sum((1, 2)) == 4).all()


@pytest.mark.parametrize("first", [17, 16], ids=["with [CLS]", "without"])
def test_a_query_changes_with_its_own_patches_alone(first, features_BND):
    """One layer: self-attention comes before the queries have looked, so none can tell another what it saw."""
    qformer, features_BND = made(windows=True), features_BND[:, -first:]
    before_BQD = queries(qformer, features_BND)
    for token in range(first):
        changed_BND = features_BND.clone()
        changed_BND[:, token] = features_BND[:, token].flip(-1)  # a shift the norm would take away
        same_Q = (queries(qformer, changed_BND) == before_BQD).all(-1).all(0)
        seen_Q = masks.windows(4, first)[:, token]
        assert torch.equal(same_Q, ~seen_Q)


def test_without_windows_every_query_changes_with_every_token(features_BND):
    qformer = made()
    changed_BND = features_BND.clone()
    changed_BND[:, 5] = features_BND[:, 5].flip(-1)
    assert (queries(qformer, changed_BND) != queries(qformer, features_BND)).any(-1).all()


def test_a_window_is_an_image_of_its_own(features_BND):
    """What a query makes of its box is what it makes of an image that has nothing else."""
    qformer, whole = made(windows=True), made()
    boxes_QN = masks.windows(4, 17)
    for query in range(4):
        alone = queries(whole, features_BND[:, boxes_QN[query]])[:, query]
        torch.testing.assert_close(queries(qformer, features_BND)[:, query], alone)


def test_passes_that_look_together_keep_their_windows(features_BND):
    """Two passes of the same images, one after the other and images that several sequences look at."""
    qformer, text = made(windows=True), PackedText.from_lists([[7, 8], [9], [4, 5, 6]])
    image = qformer.project_image(features_BND)
    alone = queries(qformer, features_BND)
    first, second = qformer([Pass(masks.UNIMODAL, image=image), Pass(masks.UNIMODAL, image=image, text=text)])
    torch.testing.assert_close(first.query_RQD, alone)
    torch.testing.assert_close(second.query_RQD, alone)
    (twice,) = qformer([Pass(masks.UNIMODAL, image=image.repeat(2))])
    torch.testing.assert_close(twice.query_RQD, alone.repeat_interleave(2, 0))
    (chosen,) = qformer([Pass(masks.UNIMODAL, image=image.select(torch.tensor([2, 0])))])
    torch.testing.assert_close(chosen.query_RQD, alone[[2, 0]])


def test_no_mask_is_made_where_there_are_no_windows(features_BND, monkeypatch):
    given = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: given.append(a[3:4]) or real(*a, **k))
    qformer = made()
    assert qformer.project_image(features_BND).mask_QN is None
    queries(qformer, features_BND)
    assert given and all(mask in ((), (None,)) for mask in given)


def test_attention_maps_are_of_the_window(features_BND):
    maps_BQGG = query_maps(made(windows=True), features_BND)
    seen_QGG = masks.windows(4, 17)[:, 1:].unflatten(1, (4, 4))
    assert torch.equal(maps_BQGG > 0, seen_QGG.expand(3, -1, -1, -1))
    torch.testing.assert_close(maps_BQGG.sum((2, 3)), torch.ones(3, 4))


def test_queries_that_are_no_boxes_are_refused_when_an_image_comes(features_BND):
    qformer = partial(made, windows=True)
    with pytest.raises(ValueError, match="num_queries=5 would be 1 x 5 boxes on 4 x 4 patches: choose the product of"):
        queries(qformer(num_queries=5), features_BND)
