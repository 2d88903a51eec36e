"""Pass, which says what the Q-Former shall compute, and RowTable, which says where the rows of each pass are.

A row is a token. The query rows of all passes come first, pass after pass, then the text rows of all passes. Linear
layers run on this matrix as it is. Self-attention runs on padded sequences, pass by pass: RowTable holds the number of
the row at each of their positions, so one gather turns the matrix into sequences and another turns them back.

The table also defines one block mask: row m may attend to row n if both are in one sequence and its pass' mask allows
it. A kernel that takes such a mask over the whole matrix (flex_attention on a GPU) would need no padded sequences;
tests/model/test_passes.py builds the mask and compares.

Legend: B images, R sequences of a pass, Q query tokens, T padded text positions, L rows of one pass' queries or text,
S positions of a sequence, G positions of all sequences, M rows of the matrix, N image tokens, D width, F any width,
H heads, E head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_blip2.model import masks
from lit_blip2.model.text import PackedText


@dataclass(frozen=True)
class ImageKV:
    """Keys and values of images for each cross-attention layer, [B, H, N, E] each.

    rows_R: the image of each sequence; None: the images in their order, without a copy.
    times: number of consecutive sequences that share an image. They attend to it together, also without a copy.
    mask_QN: which image tokens each query sees, bool, from `masks.windows`; None: all.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    rows_R: Tensor | None = None
    times: int = 1
    mask_QN: Tensor | None = None

    def __len__(self) -> int:
        """Number of sequences."""
        return self.times * len(self.layers[0][0] if self.rows_R is None else self.rows_R)

    def select(self, rows_R: Tensor) -> "ImageKV":
        """Sequence r looks at image rows_R[r] (int64); gathered layer by layer, when needed."""
        return replace(self, rows_R=rows_R)

    def repeat(self, times: int) -> "ImageKV":
        """`times` consecutive sequences look at each image."""
        return replace(self, times=times)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one cross-attention layer, [B or R, H, N, E]."""
        return tuple(map(self._rows, self.layers[index]))

    def mask(self, positions: int) -> Tensor | None:
        """The mask of so many query positions of one image, sequence after sequence, bool [S, N]; None: all see all."""
        return None if self.mask_QN is None else self.mask_QN.repeat(positions // len(self.mask_QN), 1)

    def makers(self, index: int, *copies: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
        """For `recomputed`: what `layer(index)` copied, and how to copy it again."""
        if self.rows_R is None:
            return []
        return [(copy, partial(self._rows, x)) for copy, x in zip(copies, self.layers[index])]

    def _rows(self, x_BHNE: Tensor) -> Tensor:
        if self.rows_R is None:
            return x_BHNE
        # In memory order, [B, N, H, E], so that the backward pass also adds whole rows.
        return x_BHNE.transpose(1, 2).index_select(0, self.rows_R).transpose(1, 2)


class Pass(NamedTuple):
    """Sequences under one rule: queries that look at images, texts, or both ([queries; text]).

    context: number of another pass of the same call; the text rows also see its queries where the rule lets text
    see queries. So captions are generated from the query rows that the contrastive pass has computed anyway.
    read: which text outputs the caller needs: all, each text's first, none. The last layer computes no others.
    """

    rule: masks.Rule
    image: ImageKV | None = None
    text: PackedText | None = None
    context: int | None = None
    read: Literal["all", "first", "none"] = "all"


class Output(NamedTuple):
    """Last hidden states of a pass: query_RQD, and text_LD in the packed order of the pass' text ([R, D] where only
    first tokens are needed); None for what is absent or not needed."""

    query_RQD: Tensor | None
    text_LD: Tensor | None


class Sequences(NamedTuple):
    """A pass as padded sequences.

    rows_RS: int64, the row at each position: [queries of its context; queries; text]; padding of a packed text repeats
        the text's last row. seen: number of positions in front that are only looked at, the context's queries. mask:
        who attends to whom, bool [R or 1, 1, S - seen, S]; None: all to all.
    """

    rows_RS: Tensor
    seen: int
    mask: Tensor | None


class RowTable:
    """Says where the rows of all passes are. It is made once per forward, and every layer reads it.

    sequences: one entry for each pass. query_rows: number of query rows. read_M: int64, the rows that the last layer
    computes; None: all. looks: (images, number of passes, number of their query rows) for each run of consecutive
    passes that look at the same images. They look together, so that keys and values are read once.

    Args: passes; query tokens per image; the device of their tensors.
    Raises: ValueError for a pass without image and text, or with unequal numbers of them.
    """

    def __init__(self, passes: Sequence[Pass], num_queries: int, device: torch.device):
        query_counts = [0 if each.image is None else len(each.image) * num_queries for each in passes]
        counts = query_counts + [0 if each.text is None else len(each.text.ids_L) for each in passes]
        rows = torch.arange(sum(counts), device=device).split(counts)
        queries_L, texts = rows[: len(passes)], rows[len(passes) :]
        queries = [rows_L.view(-1, num_queries) for rows_L in queries_L]
        self.passes, self.num_queries, self.query_rows = passes, num_queries, sum(query_counts)
        self.sequences = [_sequences(*each, queries) for each in zip(passes, queries, texts)]
        self._rows_G = torch.cat([each.rows_RS.flatten() for each in self.sequences])
        self._back_M = self._places(sum(counts))
        read = [*queries_L, *map(_read, passes, texts)]
        self._read_counts = [len(rows_L) for rows_L in read]
        self.read_M = None if self._read_counts == counts else torch.cat(read)
        images = [each.image for each in passes if each.image is not None]
        runs = [list(run) for _, run in groupby(images, key=id)]
        self.looks = [(run[0], len(run), len(run) * len(run[0]) * num_queries) for run in runs]

    def _places(self, rows: int) -> Tensor:
        """The first place of each row among the positions that look. Padding repeats a row, but only after it."""
        looking_G = torch.cat([each.rows_RS[:, each.seen :].flatten() for each in self.sequences])
        places_G = torch.arange(len(looking_G), device=looking_G.device)
        return places_G.new_zeros(rows).scatter_reduce(0, looking_G, places_G, "amin", include_self=False)

    def to_sequences(self, rows_MF: Tensor) -> list[Tensor]:
        """Turn the matrix of rows, [M, F], into each pass' padded sequences, [R, S, F]."""
        shapes = [each.rows_RS.shape for each in self.sequences]
        parts = rows_MF.index_select(0, self._rows_G).split([shape.numel() for shape in shapes])
        return [part_GF.unflatten(0, shape) for part_GF, shape in zip(parts, shapes)]

    def to_rows(self, looking: Sequence[Tensor], read_M: Tensor | None) -> Tensor:
        """Turn each pass' positions that look, [R, S - seen, D], back into rows [M, D], or only the rows `read_M`."""
        back_M = self._back_M if read_M is None else self._back_M[read_M]
        return torch.cat([each_RSD.flatten(0, 1) for each_RSD in looking]).index_select(0, back_M)

    def outputs(self, rows_MD: Tensor) -> list[Output]:
        """Split the last layer's rows into one Output for each pass."""
        parts = rows_MD.split(self._read_counts)
        return [
            Output(
                None if each.image is None else query_LD.unflatten(0, (-1, self.num_queries)),
                None if each.text is None or each.read == "none" else text_LD,
            )
            for each, query_LD, text_LD in zip(self.passes, parts, parts[len(self.passes) :])
        ]


def _sequences(each: Pass, query_RQ: Tensor, text_L: Tensor, queries: Sequence[Tensor]) -> Sequences:
    """A pass' sequences, from the row numbers of its queries, of its text, and of all passes' queries."""
    if each.image is None and each.text is None:
        raise ValueError("a pass needs an image, a text or both")
    if None not in (each.image, each.text) and len(each.image) != len(each.text):
        raise ValueError(f"{len(each.image)} image rows and {len(each.text)} texts in one pass: give as many")
    query = masks.Segment("query", query_RQ.shape[1])
    parts, looking, seen = [], [], []
    if each.context is not None:
        parts, seen = [queries[each.context]], [query]
    if each.image is not None:
        parts, looking = [*parts, query_RQ], [query]
    if each.text is not None:
        parts.append(text_L[each.text.source_BT])
        looking.append(masks.Segment("text", each.text.max_length, each.text.valid_BT))
    mask = masks.attention_mask(each.rule, looking, [*seen, *looking])
    return Sequences(torch.cat(parts, dim=1), len(seen) * query.size, mask)


def _read(each: Pass, rows_L: Tensor) -> Tensor:
    """The row numbers of a pass' text that the caller reads."""
    if each.text is None or each.read == "all":
        return rows_L
    return rows_L[each.text.starts_B] if each.read == "first" else rows_L[:0]
