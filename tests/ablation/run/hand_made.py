"""A plan made by hand, whose steps are a small script. As a program, one worker on it:

    python -m tests.ablation.run.hand_made OUT STORAGE CELLS [RUN=FATE ...]

Cell k stands on step `shared/k//3` (three cells share one) and on its own `own/k`. A step is `stand_in.py`.
"""

import json
import os
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from rich.console import Console

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.run import cells, process, step
from lit_blip2.ablation.run.begin import retry
from lit_blip2.ablation.run.locks import wait_lock
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.storage import open_storage
from lit_blip2.ablation.run.worker import Worker
from lit_blip2.ablation.run.workers import run_workers
from lit_blip2.ablation.schema import DONE, Cell, Plan, StepRun
from lit_blip2.ablation.spec.grid import Grid

SCRIPT = Path(__file__).with_name("stand_in.py")
METRIC = "loss/total"
WAIT_SECONDS = 120  # for what comes for certain


def until(happened) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.01)


class HandMade:
    """A sweep in a folder and a storage, which other processes may be at too. fates: of step runs, see stand_in.py."""

    def __init__(self, root: Path, storage: str, number: int, fates: dict[str, str] | None = None):
        self.folder, self.storage, self.number, self.fates = Folder(root), storage, number, fates or {}
        self.plan = plan_of(number)
        steps = {name: {"fit": "a.yaml"} for name in ("shared", "own")}
        axes = {"k": {str(k): {} for k in range(number)}}
        self.grid = Grid(name="hand_made", steps=steps, axes=axes, metrics=[METRIC], seeds=[0])

    def command(self, run: StepRun, folder: Folder) -> list[str]:
        return [sys.executable, "-I", "-S", str(SCRIPT), str(folder.run(run.name)), self.fates.get(run.name, "")]

    def stand_in(self, replace=setattr) -> None:
        """Let the script run in place of training, without waiting and without TensorBoard's events, which take torch
        seconds to import."""
        replace(step, "command", self.command)
        replace(step, "going_on", lambda *_: True)  # it looks itself for what is there
        replace(cells, "write_cell", lambda *_: None)
        replace(cells, "WAIT_SECONDS", 0.05)
        replace(process, "POLL_SECONDS", 0.01)
        replace(step, "POLL_SECONDS", 0.01)

    def empty_queue(self) -> Queue:
        return Queue(open_storage(self.storage), self.grid, self.plan.identity, self.folder)

    def queue(self, again: bool = False) -> Queue:
        """Filled; with what failed put back if it is to be tried again."""
        with wait_lock(self.folder.lock("begin")):
            queue = self.empty_queue()
            write(self.folder.plan, self.plan)
            queue.fill(self.plan)
            if again:
                retry(self.plan, queue, self.folder, Console())
        return queue

    def run(self, workers: int = 1, again: bool = False) -> int:
        """The workers of one command; its exit status."""
        task = partial(cells.work, self.plan)
        return run_workers(self.grid, self.plan, self.queue(again), self.folder, workers, Console(), task)

    def work(self) -> None:
        """One worker alone, in this thread."""
        worker = Worker(self.grid, self.queue(), self.folder, os.environ, lambda: False, lambda line: None)
        cells.work(self.plan, worker)

    def states(self) -> list[tuple[str, str]]:
        """(cell, state) of every trial."""
        opened = open_storage(self.storage)
        trials = opened.get_all_trials(opened.get_study_id_from_name("hand_made"))
        return [(trial.user_attrs["cell"], trial.state.name) for trial in trials]

    def record(self, k: int) -> dict:
        return json.loads(self.folder.cell(f"k={k},seed=0").read_text())

    def progress(self, run: str) -> list[str]:
        """The lines that a step run has written."""
        return (self.folder.run(run) / "progress.txt").read_text().split()

    def check_all_done_once(self) -> None:
        """One trial per cell, complete; every step ended well, and no line of its work was done twice."""
        assert Counter(self.states()) == {(f"k={k},seed=0", "COMPLETE"): 1 for k in range(self.number)}
        assert {self.record(k)["state"] for k in range(self.number)} == {DONE}
        assert {str(file.relative_to(self.folder.root / "runs")) for file in self.folder.root.glob("runs/*/*")} == {
            *self.plan.steps
        }
        for run in self.plan.steps:
            assert self.progress(run) == [*"0123456789"]
            starts = (self.folder.run(run) / "attempts.txt").read_text().splitlines()
            assert json.loads(self.folder.done(run).read_text())["attempts"] == len(starts)


def plan_of(number: int) -> Plan:
    planned, steps = [], {}
    for k in range(number):
        shared, own = step_run(f"shared/{k // 3}"), step_run(f"own/{k}", shared=f"shared/{k // 3}")
        steps |= {shared.name: shared, own.name: own}
        runs = {"steps": [shared.name, own.name], "metrics": {METRIC: own.name}}
        planned.append(Cell(name=f"k={k},seed=0", labels={"k": str(k)}, seed=0, **runs))
    what = {"axes": {}, "metrics": [METRIC], "identity": "hand-made", "sources": ""}
    return Plan(name="hand_made", cells=planned, steps=steps, **what)


def step_run(name: str, **parents: str) -> StepRun:
    config = {"trainer": {"logger": None, "max_steps": 10, "accelerator": "cpu"}}
    where = {"step": name.partition("/")[0], "key": name, "folder": f"runs/{name}"}
    return StepRun(name=name, command="fit", parents=parents, config=config, max_steps=10, **where)


if __name__ == "__main__":
    out, storage, number, *fates = sys.argv[1:]
    sweep = HandMade(Path(out), storage, int(number), dict(fate.split("=") for fate in fates))
    sweep.stand_in()
    sys.exit(sweep.run())
