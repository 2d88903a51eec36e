"""What this suite's metrics share: a torchmetrics.Metric that also tells the items behind its values.

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
    """Base of the metrics: `update` takes a batch, `compute` gives {name: float32 scalar} of all ranks' batches.

    items: after `compute`, what each value is made of, by the same names, for `interval` and `paired_interval` of
        evaluation/items.py; {} before.

    Ranks may differ in their numbers of rows; one that has none takes part in `compute` too.

    Args: kwargs: torchmetrics', such as sync_on_compute.
    """

    full_state_update, is_differentiable, higher_is_better = False, False, True

    def __init__(self, **kwargs: Any):
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        self.items: dict[str, Items] = {}

    def scored(self) -> dict[str, Items]:
        """What the states of all ranks come to. Raises ValueError where there is nothing to score."""
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """The values, on the metric's device."""
        self.items = self.scored()
        values = {name: each.value() for name, each in self.items.items()}
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}

    def reset(self) -> None:
        super().reset()
        self.items = {}

    def joined(self, state: str) -> Tensor | None:
        """A state's rows as one tensor, held once; None where there are none."""
        rows = getattr(self, state)
        if isinstance(rows, list):  # else ranks were joined
            if len(rows) > 1:
                rows = [torch.cat(rows)]
                setattr(self, state, rows)
            rows = rows[0] if rows else ()
        return rows if len(rows) else None

    def numbers(self, state: str, count: int) -> np.ndarray:
        """Ids of so many items, int64: those given, or their places. Raises ValueError where only some were given."""
        if (given := self.joined(state)) is None:
            return np.arange(count)
        if len(given) != count:
            raise ValueError(_SOME.format(state, len(given), count))
        return given.cpu().numpy()


class RowMetric(ItemMetric):
    """A metric of rows of texts and numbers. Its one state, `rows`, is uint8 [L], each row a line of JSON, so that
    torchmetrics gathers texts as it gathers all tensors."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Keep rows of equal length; numbers may be NumPy's or torch's."""
        if lines := "".join(f"{json.dumps(row, default=methodcaller('item'))}\n" for row in rows).encode():
            self.rows.append(torch.frombuffer(bytearray(lines), dtype=torch.uint8).to(self.device))

    def columns(self, what: str) -> list[list]:
        """The rows, column by column. Raises ValueError where there are none of `what` the metric scores."""
        if (lines_L := self.joined("rows")) is None:
            raise ValueError(f"there are no {what} to score: call update before compute")
        return [list(column) for column in zip(*map(json.loads, lines_L.cpu().numpy().tobytes().splitlines()))]


def all_or_none(name: str, given: list) -> list | None:
    """A column of rows, None where no row has it. Raises ValueError where only some have."""
    have = len(given) - given.count(None)
    if 0 < have < len(given):
        raise ValueError(_SOME.format(name, have, len(given)))
    return given if have else None


def ids_of(name: str, given: list) -> np.ndarray:
    """Ids of items, int64; their places, where none was given. Raises ValueError where only some were."""
    ids = all_or_none(name, given)
    return np.arange(len(given)) if ids is None else np.array(ids)


def same_lengths(columns: Mapping[str, Sequence | Tensor | None]) -> list[Sequence | Tensor]:
    """The columns of a batch, None made a column of None. Raises ValueError naming those of other lengths."""
    lengths = {name: len(each) for name, each in columns.items() if each is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"unequal numbers: {', '.join(f'{count} {name}' for name, count in lengths.items())}")
    (length,) = set(lengths.values())
    return [[None] * length if each is None else each for each in columns.values()]
