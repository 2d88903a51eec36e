"""What a sweep costs beyond its commands: the time of its cells that no step's process ran, per step.

    python benchmarks/sweep_overhead.py sweeps/objectives

Reads a sweep that is done. A cell's time is that from taking it to its record; its steps' seconds are those of their
processes. A cell that waited for a step of another worker is left out. Ends with one line of JSON.
"""

import json
import sys
from datetime import datetime
from pathlib import Path


def overhead(folder: Path) -> dict[str, float]:
    """Seconds per step, and the share of the cells' time, over the cells that ran all their steps themselves."""
    plan = json.loads((folder / "plan.json").read_text())
    seconds, steps, total = 0.0, 0, 0.0
    for cell in plan["cells"]:
        file = folder / "cells" / f"{cell['name']}.json"
        record = json.loads(file.read_text()) if file.exists() else {"state": "waiting"}
        runs = [json.loads((folder / "runs" / name / "done.json").read_text()) for name in cell["steps"]
                if record["state"] == "done"]  # fmt: skip
        if not runs or any(run["began"] < record["began"] for run in runs):
            continue
        took = (datetime.fromisoformat(record["ended"]) - datetime.fromisoformat(record["began"])).total_seconds()
        seconds += took - sum(run["seconds"] for run in runs)
        steps, total = steps + len(runs), total + took
    if not steps:
        raise SystemExit(f"no cell of {folder} is done that ran all its steps itself")
    return {
        "steps": steps,
        "overhead_seconds_per_step": round(seconds / steps, 3),
        "overhead_share": round(seconds / total, 4),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "plan.json").exists():
        raise SystemExit("usage: python benchmarks/sweep_overhead.py SWEEP, a folder with a plan.json")
    print(json.dumps(overhead(Path(sys.argv[1]))))
