"""Tally: how many rows of its split an evaluation has seen, and the means of its losses, over all ranks."""

from collections import Counter
from collections.abc import Mapping, Sized

import torch
from torch import Tensor

from lit_blip2.distributed import gather_lists
from lit_blip2.evaluation import evaluated


class Tally:
    """Counts rows and sums losses batch by batch. Ranks may have different numbers of batches: only `metrics` is
    collective."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add_rows(self, task: str, rows: int) -> None:
        """Count rows that were evaluated."""
        self.rows[task] += rows

    def add_losses(self, named: Mapping[str, Tensor], count: int) -> None:
        """Add losses of a batch, which are means over `count` rows (or tokens)."""
        for name, loss in named.items():
            self.sums[name] = self.sums.get(name, 0) + loss.float() * count
            self.counts[name] += count

    def metrics(self, split: str, tables: Mapping[str, Sized]) -> dict[str, float]:
        """loss/<name>, and the number of evaluated rows under the names of evaluation/evaluated.py. All ranks call
        this, and get the same.

        Args: split: val or test. tables: task -> all its rows.
        """
        parts = gather_lists([(self.rows, {name: each.cpu() for name, each in self.sums.items()}, self.counts)])
        rows, counts = (sum((part[place] for part in parts), Counter()) for place in (0, 2))
        names = dict.fromkeys(name for _, sums, _ in parts for name in sums)
        totals = {name: sum(sums[name] for _, sums, _ in parts if name in sums) for name in names}
        metrics = {f"loss/{name}": (total / torch.tensor(counts[name])).item() for name, total in totals.items()}
        return metrics | evaluated.told(split, rows, {task: len(table) for task, table in tables.items()})
