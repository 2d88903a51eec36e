"""Packs texts of unequal length into one run of tokens, so that linear layers never see padding.

Legend: B texts, R selected texts, T longest text, L real tokens of all texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedText:
    """Token ids of B texts, packed end to end.

    ids_L: int64 token ids. row_L: int64, the text each token belongs to. position_L: int64, its place in it, from 0.
    lengths_B: int64, tokens per text. max_length: T, the longest (a Python number: known without asking a device).
    dense: True when every text takes T slots, padding included (L = B x T).
    """

    ids_L: Tensor
    row_L: Tensor
    position_L: Tensor
    lengths_B: Tensor
    max_length: int
    dense: bool = False

    @classmethod
    def from_lists(cls, ids: Sequence[Sequence[int]]) -> "PackedText":
        """Pack lists of token ids, on the CPU. Raises ValueError for no text or an empty one."""
        lengths_B = np.fromiter(map(len, ids), dtype=np.int64)
        if not len(lengths_B) or not lengths_B.all():
            raise ValueError(f"text lengths are {lengths_B.tolist()}: each text needs at least one token")
        ids_L = np.fromiter(chain.from_iterable(ids), dtype=np.int64)
        return cls.from_packed(torch.from_numpy(ids_L), torch.from_numpy(lengths_B))

    @classmethod
    def from_packed(cls, ids_L: Tensor, lengths_B: Tensor) -> "PackedText":
        """Wrap token ids that are already packed end to end, on the CPU. Each text needs at least one."""
        return cls(ids_L, *_layout(lengths_B), lengths_B, int(lengths_B.max()))

    @classmethod
    def from_padded(cls, ids_BT: Tensor, lengths_B: Tensor) -> "PackedText":
        """Keep every slot, padding included: for ids on a device, whose lengths the host does not know."""
        texts, longest = ids_BT.shape
        row_L = torch.arange(texts, device=ids_BT.device)[:, None].expand(-1, longest).reshape(-1)
        position_L = torch.arange(longest, device=ids_BT.device).repeat(texts)
        return cls(ids_BT.reshape(-1), row_L, position_L, lengths_B, longest, dense=True)

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def valid_BT(self) -> Tensor:
        """bool, True where a position holds a real token."""
        return torch.arange(self.max_length, device=self.ids_L.device) < self.lengths_B[:, None]

    @property
    def slot_L(self) -> Tensor:
        """int64, place of each token in the padded B x T grid, flattened."""
        return self.row_L * self.max_length + self.position_L

    @property
    def starts_B(self) -> Tensor:
        """int64, packed place of each text's first token."""
        if self.dense:
            return torch.arange(len(self), device=self.ids_L.device) * self.max_length
        return self.lengths_B.cumsum(0) - self.lengths_B

    @property
    def source_BT(self) -> Tensor:
        """int64, packed place of each padded position; padding without a place points at its text's last token."""
        position_T = torch.arange(self.max_length, device=self.ids_L.device)
        last_B = torch.full_like(self.lengths_B, self.max_length - 1) if self.dense else self.lengths_B - 1
        return self.starts_B[:, None] + torch.minimum(position_T, last_B[:, None])

    def padded(self, length: int | None = None, fill: int = 0) -> Tensor:
        """int64 [B, length or T], right-padded with `fill`."""
        ids_BT = torch.where(self.valid_BT, self.ids_L[self.source_BT], fill)
        return torch.nn.functional.pad(ids_BT, (0, 0 if length is None else length - self.max_length), value=fill)

    def to(self, device: torch.device | str, **kwargs) -> "PackedText":
        """The same on another device. Host memory is pinned first, so that the copy does not stall a step."""
        pin = torch.device(device).type == "cuda" and self.ids_L.device.type == "cpu"
        tensors = {k: v.pin_memory() if pin else v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{k: v.to(device, non_blocking=pin, **kwargs) for k, v in tensors.items()})

    def select(self, rows_R: Tensor) -> "PackedText":
        """The texts `rows_R` (int64); they may repeat. On the CPU the result is packed again. On a device it is padded
        to T, because reading the chosen lengths there would stall the step."""
        lengths_R = self.lengths_B[rows_R]
        if self.ids_L.device.type != "cpu":
            return self.from_padded(self.ids_L[self.source_BT[rows_R]], lengths_R)
        row_L, position_L = _layout(lengths_R)
        places_L = self.starts_B[rows_R][row_L] + position_L
        return PackedText(self.ids_L[places_L], row_L, position_L, lengths_R, int(lengths_R.max()))

    def with_first_token(self, token: int) -> "PackedText":
        """Every text's first token replaced, as [CLS] is by [DEC] for generation."""
        return replace(self, ids_L=torch.where(self.position_L == 0, token, self.ids_L))

    def next_tokens(self) -> tuple[Tensor, Tensor]:
        """Next-token prediction: (packed places that predict, ids they must predict), both int64 [L - B].

        Raises ValueError for dense texts: only the device knows how many targets they hold.
        """
        if self.dense:
            raise ValueError("next_tokens() needs texts packed on the host by from_lists, these are padded")
        later_first = torch.argsort(self.position_L == 0, stable=True)
        target_L = later_first[: len(self.ids_L) - len(self)]
        return target_L - 1, self.ids_L[target_L]


def _layout(lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """(row_L, position_L) of texts packed end to end; on the CPU."""
    row_L = torch.repeat_interleave(lengths_B)
    starts_B = lengths_B.cumsum(0) - lengths_B
    return row_L, torch.arange(len(row_L)) - starts_B[row_L]
