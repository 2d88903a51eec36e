"""How much of its split an evaluation has looked at, and the means of its losses: batch by batch, over all ranks."""

from collections import Counter
from collections.abc import Mapping, Sized

import torch
from torch import Tensor

from lit_blip2.distributed import gather_lists

UNITS = {"caption": "images", "vqa": "questions", "binding": "pairs"}  # what a row of a task's table is


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
        """loss/<name>, evaluated/<split>_{images,questions,pairs}, and evaluated/<split>_share: the part of its rows
        that were looked at, of the table of which it is least. Every rank calls this, and gets the same.

        Args: split: val or test. tables: task -> all its rows.
        """
        parts = gather_lists([(self.rows, {name: each.cpu() for name, each in self.sums.items()}, self.counts)])
        rows, counts = (sum((part[place] for part in parts), Counter()) for place in (0, 2))
        names = dict.fromkeys(name for _, sums, _ in parts for name in sums)
        totals = {name: sum(sums[name] for _, sums, _ in parts if name in sums) for name in names}
        metrics = {f"loss/{name}": (total / torch.tensor(counts[name])).item() for name, total in totals.items()}
        metrics |= {f"evaluated/{split}_{UNITS[task]}": float(number) for task, number in rows.items()}
        if shares := [number / len(tables[task]) for task, number in rows.items() if task in tables]:
            metrics[f"evaluated/{split}_share"] = min(shares)
        return metrics
