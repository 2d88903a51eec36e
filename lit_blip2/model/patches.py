"""Image tokens as the square of patches that they stand for, and their average over boxes of it.

Legend: B images, N image tokens, D width, G patches along a side, T pooled tokens.
"""

from math import isqrt

from torch import Tensor
from torch.nn import functional as F


def on_grid(values_BXN: Tensor) -> Tensor:
    """What image tokens have, [B, any, N], on the square of patches [B, any, G, G]. The tokens in front that do not
    fill it are no patches: [CLS], registers."""
    side = isqrt(values_BXN.shape[-1])
    return values_BXN[..., -side * side :].unflatten(-1, (side, side))


def pool(tokens_BND: Tensor, count: int) -> Tensor:
    """Image tokens to the means of `count` boxes, [B, T, D], row by row; [CLS] is in none of them.

    The boxes lie in as many rows and columns as `boxes` says. Where these do not divide the patches, neighbours
    overlap. 8 x 8 patches to 24 tokens, 4 rows of 6:

        columns  0 1 2 3 4 5 6 7
        boxes    a a     d d            every box two patches wide and two high,
                   b b     e e          a and b share column 1
                     c c     f f
    """
    grid_BDGG = on_grid(tokens_BND.mT)
    return F.adaptive_avg_pool2d(grid_BDGG, boxes(count, grid_BDGG.shape[-1])).flatten(2).mT


def boxes(count: int, side: int) -> tuple[int, int]:
    """Rows and columns, as square as `count` allows: 24 is 4 x 6. Raises ValueError for more of them than patches."""
    rows = next(rows for rows in range(isqrt(count), 0, -1) if count % rows == 0)
    if count // rows > side:
        raise ValueError(
            f"num_tokens={count} would be {rows} x {count // rows} boxes on {side} x {side} patches: "
            f"choose the product of two numbers up to {side}"
        )
    return rows, count // rows
