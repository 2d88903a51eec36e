"""Finds where generated token ids end: at a mark of several tokens, such as "###", but not at each "#".

Legend: B rows, T ids so far.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def stops_at(marks: Sequence[Sequence[int]]) -> Callable[..., Tensor]:
    """A stopping criterion, called by transformers after each token: ids, int64 [B, T] -> which rows end, bool [B]."""

    def stops(ids_BT: Tensor, scores: Tensor, **_) -> Tensor:
        ended_B = torch.zeros(len(ids_BT), dtype=torch.bool, device=ids_BT.device)
        for mark in marks:
            if ids_BT.shape[1] >= len(mark):
                ended_B |= (ids_BT[:, -len(mark) :] == ids_BT.new_tensor(mark)).all(dim=1)
        return ended_B

    return stops


def before_mark(ids: list[int], marks: Sequence[Sequence[int]]) -> list[int]:
    """The ids before the first mark, or all ids."""
    places = [place for place in range(len(ids)) for mark in marks if ids[place : place + len(mark)] == list(mark)]
    return ids[: min(places, default=len(ids))]
