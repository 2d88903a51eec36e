"""What a sweep costs beyond its commands: the time of its cells that no step's process ran, per step.

    python benchmarks/sweep_overhead.py sweeps/objectives

Reads a sweep that is done. A cell's time is that from taking it to its record; its steps' seconds are those of their
processes. A cell that waited for a step of another worker is left out. Ends with one line of JSON.
"""

import json
import sys
from pathlib import Path

from lit_blip2.ablation.report.costs import wall
from lit_blip2.ablation.report.records import Sweep, read_sweep
from lit_blip2.ablation.schema import DONE


def overhead(sweep: Sweep) -> dict[str, float]:
    """Seconds per step, and the share of the cells' time, over the cells that ran all their steps themselves."""
    seconds, steps, total = 0.0, 0, 0.0
    for cell in [cell for cell in sweep.cells if sweep.state(cell) == DONE]:
        record, runs = sweep.records[cell.name], [sweep.done[name] for name in cell.steps]
        if all(run.began >= record.began for run in runs):
            seconds += wall(record) - sum(run.seconds for run in runs)
            steps, total = steps + len(runs), total + wall(record)
    if not steps:
        raise SystemExit("no cell is done that ran all its steps itself")
    return {
        "steps": steps,
        "overhead_seconds_per_step": round(seconds / steps, 3),
        "overhead_share": round(seconds / total, 4),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "plan.json").exists():
        raise SystemExit("usage: python benchmarks/sweep_overhead.py SWEEP, a folder with a plan.json")
    print(json.dumps(overhead(read_sweep(sys.argv[1]))))
