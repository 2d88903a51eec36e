"""Image tokens on their square, and pooled: by hand."""

import pytest
import torch

from lit_blip2.model.patches import boxes, on_grid, pool, stack, whole_boxes
from lit_blip2.model.vision import VisionEncoder


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


def test_patches_are_stacked_as_drawn():
    """Read box by box, the numbers are those of the docstring's picture."""
    rows = [line.replace("|", " ").split() for line in stack.__doc__.splitlines()]
    picture = torch.tensor([[float(each) for each in row] for row in rows if len(row) == 4 and row[0].isdigit()])
    tokens_1ND = torch.cat([torch.tensor([1e6]), picture.flatten()])[None, :, None]
    assert stack(tokens_1ND, 4).flatten().tolist() == list(range(1, 17))


def test_32_of_64_patches_are_pairs_one_above_the_other():
    """4 rows of 8 boxes: a box is two patches high and one wide; each patch keeps its row and column together."""
    stacked_RCD = stack(tokens(8), 32).view(4, 8, 4)
    assert stacked_RCD[0, 5].tolist() == [0, 5, 1, 5] and stacked_RCD[3, 7].tolist() == [6, 7, 7, 7]


def test_stacked_patches_have_the_mean_that_pool_gives():
    values_BND = torch.randn(2, 65, 3, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 4, 8, 16, 32, 64):
        means_BTD = stack(values_BND, count).unflatten(2, (-1, 3)).mean(2)
        torch.testing.assert_close(means_BTD, pool(values_BND, count))


def test_boxes_that_do_not_divide_the_patches_are_refused_with_those_that_do():
    assert whole_boxes(32, 16) == (4, 8) and whole_boxes(49, 14) == (7, 7)
    with pytest.raises(ValueError, match=r"num_tokens=16: 14 x 14 .*: choose one of 1, 2, 4, 7, 14, 49, 98, 196$"):
        whole_boxes(16, 14)


def test_an_encoder_whose_patches_are_no_square_is_refused():
    sizes = dict(img_size=[64, 128], patch_size=2, embed_dim=16, num_heads=2, depth=2)
    with pytest.raises(ValueError, match=r"does not take data\.image_size=128"):
        VisionEncoder("vit_tiny_r_s16_p8_224", model_args=sizes)
