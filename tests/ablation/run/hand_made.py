"""One worker on a hand-made plan: python hand_made.py OUT STORAGE CELLS [broken] [silent] [retry]

Cell k stands on step `shared/k//3` (three cells share one) and on its own `own/k`. A step is `work_slowly.py`, which
leaves a checkpoint as it goes. With `broken`, the script of own/1 ends with exit code 3; with `silent`, that of own/0
writes no figure.
"""

import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.run import cells, step
from lit_blip2.ablation.run.begin import retry
from lit_blip2.ablation.run.locks import wait_lock
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.storage import STORAGE_ERRORS, lost_storage, open_storage
from lit_blip2.ablation.run.workers import run_workers
from lit_blip2.ablation.schema import Cell, Plan, StepRun
from lit_blip2.ablation.spec.grid import Grid, Step

SCRIPT = Path(__file__).with_name("work_slowly.py")


def step_run(name: str, **parents: str) -> StepRun:
    config = {"trainer": {"logger": None, "max_steps": 10}}
    return StepRun(
        name=name,
        step=name.partition("/")[0],
        command="fit",
        key=name,
        folder=f"runs/{name}",
        parents=parents,
        config=config,
        max_steps=10,
    )


def plan_of(number: int) -> Plan:
    planned, steps = [], {}
    for k in range(number):
        shared, own = step_run(f"shared/{k // 3}"), step_run(f"own/{k}", shared=f"shared/{k // 3}")
        steps |= {shared.name: shared, own.name: own}
        runs = {"steps": [shared.name, own.name], "metrics": {"figure": own.name}}
        planned.append(Cell(name=f"k={k},seed=0", labels={"k": str(k)}, seed=0, **runs))
    return Plan(
        name="hand_made", axes={}, metrics=["figure"], cells=planned, steps=steps, identity="hand-made", sources=""
    )


def grid_of(number: int) -> Grid:
    steps = {name: Step(name, "fit", "", {}) for name in ("shared", "own")}
    return Grid("hand_made", steps, {"k": {str(k): {} for k in range(number)}}, ["figure"], {"k": "0"}, [0])


def main() -> int:
    out, storage, number, *options = sys.argv[1:]
    folder, grid, plan = Folder(out), grid_of(int(number)), plan_of(int(number))
    fate = {"own/1": "broken"} if "broken" in options else {"own/0": "silent"} if "silent" in options else {}
    step.command = lambda run, folder: [sys.executable, str(SCRIPT), str(folder.run(run.name)), fate.get(run.name, "")]
    cells.write_cell = lambda *_: None
    with wait_lock(folder.lock("begin")):
        queue = Queue(open_storage(storage), grid, plan.identity, folder)
        write(folder.plan, plan)
        queue.fill(plan)
        if "retry" in options:
            retry(plan, queue, folder, Console())
    try:
        return run_workers(grid, plan, queue, folder, 1, Console(), partial(cells.work, plan))
    except STORAGE_ERRORS as error:
        print(lost_storage(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
