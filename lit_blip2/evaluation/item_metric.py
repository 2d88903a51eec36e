"""ItemMetric and RowMetric, the bases of the metrics: a torchmetrics.Metric that also keeps per-example values.

Legend: L bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from operator import methodcaller
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lit_blip2.distributed import gather_rows
from lit_blip2.evaluation.items import Items

_SOME = "{} of {} of {} items: give them in every update, or in none"


class ItemMetric(Metric):
    """Base of the metrics: `update` takes a batch, `compute` returns {name: float32 scalar} over all ranks.

    items: after `compute`, name -> the per-example values behind each metric, for `interval` and `paired_interval` of
    evaluation/items.py; {} before. Ranks may have different numbers of rows, or none.

    Args:
        kwargs: arguments of torchmetrics.Metric, such as sync_on_compute.
    """

    full_state_update, is_differentiable, higher_is_better = False, False, True

    def __init__(self, **kwargs: Any):
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        self.items: dict[str, Items] = {}

    def scored(self) -> dict[str, Items]:
        """name -> per-example values, from the states of all ranks. Raises ValueError if there is nothing to score."""
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """name -> value, float32 scalars on the metric's device. Raises ValueError if there is nothing to score."""
        self.items = self.scored()
        values = {name: each.value() for name, each in self.items.items()}
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}

    def reset(self) -> None:
        super().reset()
        self.items = {}

    def joined(self, state: str) -> Tensor | None:
        """The rows of a state as one tensor; None without rows."""
        rows = getattr(self, state)
        if isinstance(rows, list):  # else torchmetrics has joined the ranks' rows
            if len(rows) > 1:
                rows = [torch.cat(rows)]
                setattr(self, state, rows)
            rows = rows[0] if rows else ()
        return rows if len(rows) else None

    def numbers(self, state: str, count: int) -> np.ndarray:
        """Ids of `count` examples, int64: those given, or 0, 1, 2, ... Raises ValueError if only some were given."""
        if (given := self.joined(state)) is None:
            return np.arange(count)
        if len(given) != count:
            raise ValueError(_SOME.format(state, len(given), count))
        return given.cpu().numpy()


class RowMetric(ItemMetric):
    """Base of metrics whose rows hold texts. The only state, `rows`, is uint8 [L], one line of JSON per row, so that
    torchmetrics can gather it as a tensor."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows of equal length; numbers may be NumPy or torch scalars."""
        if lines := "".join(f"{json.dumps(row, default=methodcaller('item'))}\n" for row in rows).encode():
            self.rows.append(torch.frombuffer(bytearray(lines), dtype=torch.uint8).to(self.device))

    def columns(self, what: str) -> list[list]:
        """The columns of all rows. Raises ValueError, naming `what` the metric scores, if there are no rows."""
        if (lines_L := self.joined("rows")) is None:
            raise ValueError(f"there are no {what} to score: call update before compute")
        return [list(column) for column in zip(*map(json.loads, lines_L.cpu().numpy().tobytes().splitlines()))]


def all_or_none(name: str, given: list) -> list | None:
    """The column `given`; None if no row has a value. Raises ValueError if only some rows have one."""
    have = len(given) - given.count(None)
    if 0 < have < len(given):
        raise ValueError(_SOME.format(name, have, len(given)))
    return given if have else None


def ids_of(name: str, given: list) -> np.ndarray:
    """Ids of examples, int64: those given, or 0, 1, 2, ... Raises ValueError if only some were given."""
    ids = all_or_none(name, given)
    return np.arange(len(given)) if ids is None else np.array(ids)


def same_lengths(columns: Mapping[str, Sequence | Tensor | None]) -> list[Sequence | Tensor]:
    """The columns of a batch; a missing column becomes a column of None. Raises ValueError for unequal lengths."""
    lengths = {name: len(each) for name, each in columns.items() if each is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"unequal numbers: {', '.join(f'{count} {name}' for name, count in lengths.items())}")
    (length,) = set(lengths.values())
    return [[None] * length if each is None else each for each in columns.values()]
