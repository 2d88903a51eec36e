"""The only place that makes an attention mask.

A sequence is a list of segments, queries Q and text T; a rule says which segment sees which. Masks are bool,
True = attends; rows look, columns are looked at. For two queries and three text tokens (paper, figure 2;
docs/numerics.md, Masks):

      UNIMODAL              BIDIRECTIONAL          MULTIMODAL_CAUSAL
      ITC, stage 2          ITM, prompts           ITG
        q q t t t             q q t t t              q q t t t
      q x x . . .           q x x x x x            q x x . . .
      q x x . . .           q x x x x x            q x x . . .
      t . . x x x           t x x x x x            t x x x . .
      t . . x x x           t x x x x x            t x x x x .
      t . . x x x           t x x x x x            t x x x x x

Padding is a column nobody sees. A padded row still sees what its segment sees, so that no softmax is empty; nothing
reads its result.

Queries attend to the whole image, without a mask, or each to its own window of it: see `windows`.

Legend: B sequences, R row positions, C column positions, S positions of one segment, Q query tokens, N image tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_blip2.model.patches import boxes, pool, side_of

Kind = Literal["query", "text"]
Rule = Mapping[tuple[Kind, Kind], Literal["all", "causal"]]

UNIMODAL: Rule = {("query", "query"): "all", ("text", "text"): "all"}
BIDIRECTIONAL: Rule = {(a, b): "all" for a in ("query", "text") for b in ("query", "text")}
MULTIMODAL_CAUSAL: Rule = {("query", "query"): "all", ("text", "query"): "all", ("text", "text"): "causal"}


class Segment(NamedTuple):
    """A run of positions of one kind.

    kind: "query" or "text". size: number of positions, padding included.
    valid_BS: bool, False where a position is padding; None when every position is real.
    """

    kind: Kind
    size: int
    valid_BS: Tensor | None = None


def attention_mask(rule: Rule, rows: Sequence[Segment], columns: Sequence[Segment]) -> Tensor | None:
    """Who attends to whom, bool [B or 1, 1, R, C] (the 1 is for heads); None when all attend to all."""
    device = next((s.valid_BS.device for s in (*rows, *columns) if s.valid_BS is not None), None)
    blocks = [[_block(rule.get((row.kind, column.kind)), row, column, device) for column in columns] for row in rows]
    if all(block is None for line in blocks for block in line):
        return None
    filled = [
        [_all(row, column, device) if block is None else block for block, column in zip(line, columns)]
        for line, row in zip(blocks, rows)
    ]
    batch = max(block.shape[0] for line in filled for block in line)
    lines = [torch.cat([block.expand(batch, -1, -1) for block in line], dim=2) for line in filled]
    return torch.cat(lines, dim=1).unsqueeze(1)


def windows(queries: int, tokens: int, device: torch.device | None = None) -> Tensor:
    """Which image tokens each query sees, bool [Q, N]: the patches that `pool` would average for it. Tokens that are no
    patch are left out, such as [CLS], which knows the whole image. Four queries on [CLS] and 4 x 4 patches:

          c p p p p p p p p p p p p p p p p
        q . x x . . x x . . . . . . . . . .
        q . . . x x . . x x . . . . . . . .
        q . . . . . . . . . x x . . x x . .
        q . . . . . . . . . . . x x . . x x

    Raises ValueError if the queries do not fit the patches as rows and columns of boxes, see `patches.boxes`.
    """
    one_1NN = torch.eye(tokens, device=device)[None]
    boxes(queries, side_of(tokens), "num_queries")
    return pool(one_1NN, queries)[0] > 0


def _all(row: Segment, column: Segment, device: torch.device | None) -> Tensor:
    return torch.ones(1, row.size, column.size, dtype=torch.bool, device=device)


def _block(sees: str | None, row: Segment, column: Segment, device: torch.device | None) -> Tensor | None:
    """One segment looking at one segment: bool [B or 1, R, C]; None where everything attends."""
    if sees is None:
        return ~_all(row, column, device)
    block = _all(row, column, device).tril() if sees == "causal" else None
    if column.valid_BS is None:
        return block
    padding = column.valid_BS.unsqueeze(1).expand(-1, row.size, -1)
    return padding if block is None else padding & block
