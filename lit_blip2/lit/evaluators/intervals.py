"""How sure a test's metrics are: in intervals.json, and item by item for `compare`."""

from pathlib import Path

import lightning as L
import numpy as np

from lit_blip2.evaluation.items import FILE, Items, interval, write_items
from lit_blip2.whole_files import write_json

INTERVALS = "intervals.json"


def write_intervals(trainer: L.Trainer, items: dict[str, Items]) -> None:
    """Beside the run's metrics, from the first rank: items.npz and intervals.json, {metric: {low, high, images}}. A
    metric that is not finite is left out."""
    items = {name: each for name, each in items.items() if np.isfinite(each.value())}
    folder = trainer.log_dir  # asks all ranks, so it comes before any of them leaves
    if not (folder and trainer.is_global_zero):
        return
    if not items:  # a server has the answers; an earlier test's must not stand beside its predictions
        for name in (FILE, INTERVALS):
            Path(folder, name).unlink(missing_ok=True)
        return
    write_items(Path(folder, FILE), items)
    found = {name: interval(each) for name, each in items.items()}
    kept = {
        name: {"low": low, "high": high, "images": len(set(items[name].images.tolist()))}
        for name, (low, high) in found.items()
    }
    write_json(Path(folder, INTERVALS), kept)
