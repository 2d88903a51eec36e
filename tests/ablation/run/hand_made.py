"""One worker on a hand-made plan: python hand_made.py OUT STORAGE CELLS [broken] [silent] [retry]

Cell k stands on step `shared/k//3` (three cells share one) and on its own `own/k`. A step is `work_slowly.py`, which
leaves a checkpoint as it goes. With `broken`, the script of own/1 ends with exit code 3; with `silent`, that of own/0
writes no figure.
"""

import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from lit_blip2.ablation.run import step, worker
from lit_blip2.ablation.run.folder import Folder, wait_lock, write_json
from lit_blip2.ablation.run.plan import Plan, PlannedCell, StepRun
from lit_blip2.ablation.run.queue import Queue, open_storage
from lit_blip2.ablation.run.sweep import _retry, run_workers
from lit_blip2.ablation.spec.grid import Grid, Step

SCRIPT = Path(__file__).with_name("work_slowly.py")


def step_run(name: str, **parents: str) -> StepRun:
    config = {"trainer": {"logger": None, "max_steps": 10}}
    return StepRun(name, name.partition("/")[0], "fit", name, f"runs/{name}", parents, config, 10)


def plan_of(cells: int) -> Plan:
    planned, steps = [], {}
    for k in range(cells):
        shared, own = step_run(f"shared/{k // 3}"), step_run(f"own/{k}", shared=f"shared/{k // 3}")
        steps |= {shared.name: shared, own.name: own}
        planned.append(PlannedCell(f"k={k},seed=0", {"k": str(k)}, 0, [shared.name, own.name], {"figure": own.name}))
    return Plan(planned, steps, "hand-made", "")


def grid_of(cells: int) -> Grid:
    steps = {name: Step(name, "fit", "", {}) for name in ("shared", "own")}
    return Grid("hand_made", steps, {"k": {str(k): {} for k in range(cells)}}, ["figure"], {"k": "0"}, [0])


def main() -> int:
    out, storage, cells, *options = sys.argv[1:]
    folder, grid, plan = Folder(out), grid_of(int(cells)), plan_of(int(cells))
    fate = {"own/1": "broken"} if "broken" in options else {"own/0": "silent"} if "silent" in options else {}
    step.command = lambda run, folder: [sys.executable, str(SCRIPT), str(folder.run(run.name)), fate.get(run.name, "")]
    worker.write_cell = lambda *_: None
    with wait_lock(folder.lock("begin")):
        queue = Queue(open_storage(storage), grid, plan.identity, folder)
        write_json(folder.plan, {"name": "hand_made"})
        queue.fill(plan)
        if "retry" in options:
            _retry(plan, queue, folder, Console())
    return run_workers(grid, plan, queue, folder, 1, Console(), partial(worker.work, plan))


if __name__ == "__main__":
    sys.exit(main())
