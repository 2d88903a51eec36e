"""Image tokens as the square of patches that they stand for, and boxes of it: their average, or all that is in them.

An encoder here sees square images, so its patches are a square. What stands in front of them ([CLS], registers) is in
no box.

Legend: B images, N image tokens, D width, G patches along a side, T boxes, in R rows and C columns of them, P patches
in a box.
"""

from math import isqrt

from torch import Tensor
from torch.nn import functional as F


def on_grid(values_BXN: Tensor) -> Tensor:
    """What image tokens have, [B, any, N], on the square of patches [B, any, G, G]. The tokens in front that do not
    fill it are no patches: [CLS], registers."""
    side = side_of(values_BXN.shape[-1])
    return values_BXN[..., -side * side :].unflatten(-1, (side, side))


def side_of(tokens: int) -> int:
    """Patches along a side of an image of so many tokens."""
    return isqrt(tokens)


def pool(tokens_BND: Tensor, count: int) -> Tensor:
    """Image tokens to the means of `count` boxes, [B, T, D], row by row; [CLS] is in none of them.

    The boxes lie in as many rows and columns as `boxes` says. Where these do not divide the patches, neighbours
    overlap. 8 x 8 patches to 24 tokens, 4 rows of 6:

        columns  0 1 2 3 4 5 6 7
        boxes    a a     d d            every box two patches wide and two high,
                   b b     e e          a and b share column 1
                     c c     f f
    """
    return pool_grid(on_grid(tokens_BND.mT), count).flatten(2).mT


def pool_grid(grid_BDGG: Tensor, count: int) -> Tensor:
    """`pool` of patches that lie on their square: [B, D, R, C]."""
    return F.adaptive_avg_pool2d(grid_BDGG, boxes(count, grid_BDGG.shape[-1]))


def boxes(count: int, side: int, name: str = "num_tokens") -> tuple[int, int]:
    """Rows and columns, as square as `count` allows: 24 is 4 x 6. Raises ValueError for more of them than patches, and
    says what the setting is called."""
    rows, columns = _shape(count)
    if columns > side:
        raise ValueError(
            f"{name}={count} would be {rows} x {columns} boxes on {side} x {side} patches: "
            f"choose the product of two numbers up to {side}"
        )
    return rows, columns


def stack(tokens_BND: Tensor, count: int) -> Tensor:
    """Image tokens to the patches of `count` boxes of one size, one behind the other, [B, T, P * D], row by row.

    4 x 4 patches to 4 tokens of 4 patches each, 2 rows of 2 boxes, in the order of their numbers:

        1  2 | 5  6
        3  4 | 7  8
        -----+-----
        9 10 |13 14
       11 12 |15 16
    """
    grid_BDGG = on_grid(tokens_BND.mT)
    rows, columns = whole_boxes(count, grid_BDGG.shape[-1])
    split = grid_BDGG.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # [B, D, R, height, C, width]
    return split.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def whole_boxes(count: int, side: int) -> tuple[int, int]:
    """`boxes` that divide the patches. Raises ValueError where they do not, with the counts whose boxes do."""
    if not _divide(count, side):
        fit = [str(each) for each in range(1, side * side + 1) if _divide(each, side)]
        raise ValueError(
            f"num_tokens={count}: {side} x {side} patches do not fall into so many boxes of one size: "
            f"choose one of {', '.join(fit)}"
        )
    return _shape(count)


def _divide(count: int, side: int) -> bool:
    return 0 < count <= side * side and all(side % number == 0 for number in _shape(count))


def _shape(count: int) -> tuple[int, int]:
    """Rows and columns whose product is `count`, no more rows than columns."""
    rows = next(rows for rows in range(isqrt(count), 0, -1) if count % rows == 0)
    return rows, count // rows
