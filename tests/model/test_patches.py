"""Image tokens on their square, and pooled: by hand."""

import pytest
import torch

from lit_blip2.model.patches import boxes, on_grid, pool


def test_grid_leaves_out_what_is_no_patch():
    """[CLS] and four patches; without [CLS]; row by row as the encoder reads them."""
    assert on_grid(torch.tensor([[[9.0, 1, 2, 3, 4]]])).tolist() == [[[[1, 2], [3, 4]]]]
    assert on_grid(torch.tensor([[[1.0, 2, 3, 4]]])).tolist() == [[[[1, 2], [3, 4]]]]
    assert on_grid(torch.zeros(1, 1, 14 * 14 + 5)).shape == (1, 1, 14, 14)


def tokens(side: int) -> torch.Tensor:
    """[CLS], which must not be seen, and patches that say their row and column."""
    places = torch.cartesian_prod(torch.arange(float(side)), torch.arange(float(side)))
    return torch.cat([torch.full((1, 2), 1e6), places])[None]


def test_four_boxes_of_four_patches():
    """3 x 3 patches to 2 x 2 boxes, which share the middle: rows 0-1 and 1-2 have means .5 and 1.5."""
    assert pool(tokens(3), 4).tolist() == [[[0.5, 0.5], [0.5, 1.5], [1.5, 0.5], [1.5, 1.5]]]


def test_64_patches_to_24_tokens_as_drawn():
    pooled_RCD = pool(tokens(8), 24).view(4, 6, 2)
    assert pooled_RCD[:, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]  # rows 0-1, 2-3, 4-5, 6-7
    assert pooled_RCD[0, :, 1].tolist() == [0.5, 1.5, 2.5, 4.5, 5.5, 6.5]  # columns 0-1, 1-2, 2-3, 4-5, 5-6, 6-7
    assert (pooled_RCD[..., 0] == pooled_RCD[:, :1, 0]).all() and (pooled_RCD[..., 1] == pooled_RCD[:1, :, 1]).all()


def test_as_many_tokens_as_patches_are_the_patches():
    assert torch.equal(pool(tokens(8), 64), tokens(8)[:, 1:])


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (7, (1, 7)), (24, (4, 6)), (32, (4, 8)), (36, (6, 6))])
def test_boxes_are_as_square_as_can_be(count, shape):
    assert boxes(count, 8) == shape


@pytest.mark.parametrize(("count", "shape"), [(31, "1 x 31"), (72, "8 x 9")])
def test_more_boxes_than_patches_are_refused(count, shape):
    with pytest.raises(ValueError, match=rf"num_tokens={count} would be {shape} boxes on 8 x 8 patches: choose"):
        pool(tokens(8), count)
