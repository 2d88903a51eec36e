"""How much of its split an evaluation has looked at, and the means of its losses: batch by batch, over all ranks."""

from collections import Counter
from collections.abc import Mapping, Sized

import torch
from torch import Tensor

from lit_blip2.distributed import gather_lists
from lit_blip2.evaluation import evaluated


class Tally:
    """Ranks need not have a batch each: they meet in `metrics` alone."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add_rows(self, task: str, rows: int) -> None:
        """Rows that were looked at."""
        self.rows[task] += rows

    def add_losses(self, named: Mapping[str, Tensor], count: int) -> None:
        """Losses of a batch, means over so many rows (or tokens)."""
        for name, loss in named.items():
            self.sums[name] = self.sums.get(name, 0) + loss.float() * count
            self.counts[name] += count

    def metrics(self, split: str, tables: Mapping[str, Sized]) -> dict[str, float]:
        """loss/<name>, and what was looked at, under the names of evaluation/evaluated.py. Every rank calls this, and
        gets the same.

        Args: split: val or test. tables: task -> all its rows.
        """
        parts = gather_lists([(self.rows, {name: each.cpu() for name, each in self.sums.items()}, self.counts)])
        rows, counts = (sum((part[place] for part in parts), Counter()) for place in (0, 2))
        names = dict.fromkeys(name for _, sums, _ in parts for name in sums)
        totals = {name: sum(sums[name] for _, sums, _ in parts if name in sums) for name in names}
        metrics = {f"loss/{name}": (total / torch.tensor(counts[name])).item() for name, total in totals.items()}
        return metrics | evaluated.told(split, rows, {task: len(table) for task, table in tables.items()})
