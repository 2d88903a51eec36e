"""Writes a test's confidence intervals (intervals.json), and its values item by item (items.npz) for `compare`."""

from pathlib import Path

import lightning as L
import numpy as np

from lit_blip2.evaluation.items import FILE, Items, interval, write_items
from lit_blip2.whole_files import write_json

INTERVALS = "intervals.json"


def write_intervals(trainer: L.Trainer, items: dict[str, Items]) -> None:
    """Write items.npz and intervals.json, {metric: {low, high, images}}, beside the run's metrics, on the first rank. A
    metric that is not finite is left out."""
    items = {name: each for name, each in items.items() if np.isfinite(each.value())}
    folder = trainer.log_dir  # collective: all ranks must get here
    if not (folder and trainer.is_global_zero):
        return
    if not items:  # a server has the answers: remove an earlier test's files
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
