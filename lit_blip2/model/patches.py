"""Arranges image tokens as their square of patches, and averages or concatenates the patches of each box.

Images are square here, so the patches form a square. Tokens in front of the patches ([CLS], registers) are in no box.

Legend: B images, N image tokens, D width, G patches along a side, T boxes, in R rows and C columns of them, P patches
in a box.
"""

from math import isqrt

from torch import Tensor
from torch.nn import functional as F


def on_grid(values_BXN: Tensor) -> Tensor:
    """Values of image tokens, [B, any, N], placed on the square of patches, [B, any, G, G]. Tokens in front that are no
    patches ([CLS], registers) are left out."""
    side = side_of(values_BXN.shape[-1])
    return values_BXN[..., -side * side :].unflatten(-1, (side, side))


def side_of(tokens: int) -> int:
    """Number of patches along a side of an image with so many tokens."""
    return isqrt(tokens)


def pool(tokens_BND: Tensor, count: int) -> Tensor:
    """Means of image tokens over `count` boxes, [B, T, D], row by row; [CLS] is in no box.

    `boxes` gives the number of rows and columns. If these do not divide the patches, neighbouring boxes overlap.
    8 x 8 patches become 24 tokens, 4 rows of 6:

        columns  0 1 2 3 4 5 6 7
        boxes    a a     d d            every box two patches wide and two high,
                   b b     e e          a and b share column 1
                     c c     f f
    """
    return pool_grid(on_grid(tokens_BND.mT), count).flatten(2).mT


def pool_grid(grid_BDGG: Tensor, count: int) -> Tensor:
    """`pool` for patches that already form a square: [B, D, R, C]."""
    return F.adaptive_avg_pool2d(grid_BDGG, boxes(count, grid_BDGG.shape[-1]))


def boxes(count: int, side: int, name: str = "num_tokens") -> tuple[int, int]:
    """Rows and columns of `count` boxes, as square as possible: 24 is 4 x 6. name: the setting, for the message. Raises
    ValueError for more columns than patches along a side."""
    rows, columns = _shape(count)
    if columns > side:
        raise ValueError(
            f"{name}={count} would be {rows} x {columns} boxes on {side} x {side} patches: "
            f"choose the product of two numbers up to {side}"
        )
    return rows, columns


def stack(tokens_BND: Tensor, count: int) -> Tensor:
    """Concatenates the patches of each of `count` equal boxes to one token, [B, T, P * D], row by row.

    4 x 4 patches become 4 tokens of 4 patches each, 2 rows of 2 boxes, in the order of these numbers:

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
    """As `boxes`, but the boxes must divide the patches. Raises ValueError if not, with the counts whose boxes do."""
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
