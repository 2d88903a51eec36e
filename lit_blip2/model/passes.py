"""What a forward of the Q-Former is asked for, and where everything lies in its one matrix of rows.

Query rows of all passes come first, pass after pass, then the real text tokens of all passes. Attention gathers them to
padded sequences and scatters its results back.

Legend: B images, R sequences of a pass, Q query tokens, T padded text positions, L real text tokens, N image tokens,
S positions of a sequence (Q + T), M rows of the one matrix, D width, F width of queries, keys and values together,
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
    """An image's keys and values for each cross-attention layer, [B, H, N, E] each.

    rows_R: which image each sequence looks at (None: one after the other, with no copy).
    times: sequences in a row that look at the same one; they look together, with no copy either.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    rows_R: Tensor | None = None
    times: int = 1

    def __len__(self) -> int:
        """Number of sequences."""
        return self.times * len(self.layers[0][0] if self.rows_R is None else self.rows_R)

    def select(self, rows_R: Tensor) -> "ImageKV":
        """Sequence r looks at image rows_R[r] (int64); gathered layer by layer, when needed."""
        return replace(self, rows_R=rows_R)

    def repeat(self, times: int) -> "ImageKV":
        """So many sequences, one after the other, look at each image."""
        return replace(self, times=times)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one cross-attention layer, [B or R, H, N, E]."""
        return tuple(map(self._rows, self.layers[index]))

    def makers(self, index: int, *copies: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
        """For `recomputed`: what `layer(index)` copied, and how to copy it again."""
        if self.rows_R is None:
            return []
        return [(copy, partial(self._rows, x.detach())) for copy, x in zip(copies, self.layers[index])]

    def _rows(self, x_BHNE: Tensor) -> Tensor:
        if self.rows_R is None:
            return x_BHNE
        # As they lie in memory, [B, N, H, E]: the way back adds whole rows too.
        return x_BHNE.transpose(1, 2).index_select(0, self.rows_R).transpose(1, 2)


class Pass(NamedTuple):
    """Sequences under one rule: queries that look at images, texts, or both ([queries; text]).

    context: number of an earlier pass of the same call; the text rows also see its queries where the rule lets text
    see queries. So captions are generated from the query rows that the contrastive pass has computed anyway.
    read: which text rows of the output anybody reads: all, each text's first, none. The last layer computes no others.
    """

    rule: masks.Rule
    image: ImageKV | None = None
    text: PackedText | None = None
    context: int | None = None
    read: Literal["all", "first", "none"] = "all"


class Output(NamedTuple):
    """Last hidden states of a pass: query_RQD, and text_LD in the packed order of the pass' text ([R, D] where only
    first tokens are read); None for what is absent or not read."""

    query_RQD: Tensor | None
    text_LD: Tensor | None


class Part(NamedTuple):
    """One pass' way between the matrix of all rows and padded sequences, and its mask.

    source_L: for each padded text position, the text row it takes (None: they are the same).
    slot_L: for each text row, its padded position (None: the same). read_L: those of the rows that are read.
    """

    sequences: int
    queries: int
    text: PackedText | None
    source_L: Tensor | None
    slot_L: Tensor | None
    read_L: Tensor | None
    context: int | None
    mask: Tensor | None

    def gather(self, query_MF: Tensor | None, text_LF: Tensor | None) -> Tensor:
        """This pass' query rows and text rows to its padded sequences [R, S, F]."""
        parts = []
        if query_MF is not None:
            parts.append(query_MF.view(self.sequences, self.queries, -1))
        if text_LF is not None:
            text_LF = text_LF if self.source_L is None else text_LF.index_select(0, self.source_L)
            parts.append(text_LF.view(self.sequences, self.text.max_length, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def scatter(self, x_RSD: Tensor, slot_L: Tensor | None) -> tuple[Tensor, Tensor]:
        """Padded sequences back to (query rows, real text rows)."""
        query_RQD, text_RTD = x_RSD.split([self.queries, x_RSD.shape[1] - self.queries], dim=1)
        text_LD = text_RTD.flatten(0, 1)
        if slot_L is not None:
            text_LD = text_LD.index_select(0, slot_L)
        return query_RQD.flatten(0, 1), text_LD


class Plan:
    """Where each pass' rows lie and who sees whom: made once a forward, read by every layer."""

    def __init__(self, passes: Sequence[Pass], num_queries: int):
        self.passes, self.num_queries = passes, num_queries
        self.images = [each.image for each in passes if each.image is not None]
        self.query_counts = [len(image) * num_queries for image in self.images]
        # Passes in a row that look at the same images look together: keys and values are read once.
        runs = [list(run) for _, run in groupby(self.images, key=id)]
        self.looks = [(run[0], len(run)) for run in runs]
        self.look_counts = [len(image) * passes * num_queries for image, passes in self.looks]
        self.query_rows = sum(self.query_counts)
        self.query_sequences = sum(map(len, self.images))
        self.text_counts = [len(each.text.ids_L) for each in passes if each.text is not None]
        self.parts = [self._part(each) for each in passes]
        self.read_counts, self.read_M = self._read()

    def _read(self) -> tuple[list[int], Tensor | None]:
        """Text rows that are read: how many of each pass; and their places among all rows, None if that is all."""
        texts = [each for each in self.passes if each.text is not None]
        if all(each.read == "all" for each in texts):
            return self.text_counts, None
        device = texts[0].text.ids_L.device
        places_M = torch.arange(self.query_rows + sum(self.text_counts), device=device)
        query_M, *texts_M = places_M.split([self.query_rows, *self.text_counts])
        texts_M = [_read_rows(each, rows_M) for each, rows_M in zip(texts, texts_M)]
        return [len(rows_M) for rows_M in texts_M], torch.cat([query_M, *texts_M])

    def _part(self, each: Pass) -> Part:
        if each.image is None and each.text is None:
            raise ValueError("a pass needs an image, a text or both")
        if None not in (each.image, each.text) and len(each.image) != len(each.text):
            raise ValueError(f"{len(each.image)} image rows and {len(each.text)} texts in one pass: give as many")
        rows = []
        if each.image is not None:
            rows.append(masks.Segment("query", self.num_queries))
        if each.text is not None:
            rows.append(masks.Segment("text", each.text.max_length, each.text.valid_BT))
        seen = [masks.Segment("query", self.num_queries)] if each.context is not None else []
        slot_L = None if each.text is None or each.text.full else each.text.slot_L
        return Part(
            sequences=len(each.image if each.text is None else each.text),
            queries=0 if each.image is None else self.num_queries,
            text=each.text,
            source_L=None if each.text is None or each.text.full else each.text.source_BT.flatten(),
            slot_L=slot_L,
            read_L=slot_L if each.text is None or each.read == "all" else _read_rows(each, each.text.slot_L),
            context=each.context,
            mask=masks.attention_mask(each.rule, rows, [*seen, *rows]),
        )

    def to_rows(self, parts_RSD: Sequence[Tensor], last: bool) -> Tensor:
        """Padded sequences of all passes to the matrix of rows [M, D]; in the last layer, of rows that are read."""
        rows = [part.scatter(x, part.read_L if last else part.slot_L) for part, x in zip(self.parts, parts_RSD)]
        return torch.cat([query_MD for query_MD, _ in rows] + [text_LD for _, text_LD in rows])

    def split(self, query_MD: Tensor, text_MD: Tensor) -> list[Output]:
        """Rows of all passes to one Output per pass."""
        queries = iter(query_MD.split(self.query_counts))
        texts = iter(text_MD.split([count for count in self.read_counts if count]))
        return [
            Output(
                None if each.image is None else next(queries).view(len(each.image), self.num_queries, -1),
                None if each.text is None or each.read == "none" else next(texts),
            )
            for each in self.passes
        ]


def _read_rows(each: Pass, rows_L: Tensor) -> Tensor:
    """Of one number per text row of a pass, those of the rows that are read."""
    return {"all": rows_L, "first": rows_L[each.text.starts_B], "none": rows_L[:0]}[each.read]
