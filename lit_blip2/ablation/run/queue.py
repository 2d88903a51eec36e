"""The queue of cells: an Optuna study, one trial per cell, shared by any number of workers.

A trial waits, runs, and ends once: COMPLETE, FAIL or PRUNED. While it runs its worker holds the cell's lock; a trial
that runs without one belonged to a killed worker, and is taken over by whoever comes next.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from functools import cache

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from lit_blip2.ablation.folder import Folder, SweepError, read
from lit_blip2.ablation.run.locks import try_lock
from lit_blip2.ablation.run.made import Look, agrees
from lit_blip2.ablation.run.waiting import Waiting
from lit_blip2.ablation.schema import DONE, FAILED, PRUNED, WAITING, Cell, Done, Plan, Record, StepRun, is_of
from lit_blip2.ablation.spec.grid import Grid, Point
from lit_blip2.contents import read_text, shown
from lit_blip2.runs import standing
from lit_blip2.whole_files import write_text

OPEN = (TrialState.WAITING, TrialState.RUNNING)
ENDS = {DONE: TrialState.COMPLETE, FAILED: TrialState.FAIL, PRUNED: TrialState.PRUNED}
RUNNING = "running"
WORDS = {TrialState.WAITING: WAITING, TrialState.RUNNING: RUNNING} | {state: word for word, state in ENDS.items()}


class Queue:
    """The cells of one sweep in a storage."""

    def __init__(self, storage: Waiting, grid: Grid, identity: str, folder: Folder):
        """Join the study of this name, or make it. Raises ValueError if it belongs to another grid or folder."""
        self.folder, self.storage = folder, storage
        self.points = None if grid.ranges else {point.name: point for point in grid.points()}
        self.study = optuna.create_study(
            study_name=grid.name, storage=storage, load_if_exists=True, direction=grid.direction
        )
        self.study_id = storage.get_study_id_from_name(grid.name)
        own = {"identity": identity, "folder": _mark(folder)}
        for what, value in own.items():
            if self.study.user_attrs.get(what, value) != value:
                raise ValueError(
                    f"the storage already holds a sweep {grid.name!r} with another {what} "
                    f"({self.study.user_attrs[what]}; this one: {value}): give this one another name or --storage"
                )
            self.study.set_user_attr(what, value)

    def fill(self, plan: Plan) -> None:
        """Add a waiting trial for each cell that has none. Also for each that has ended in the queue but not in the
        folder: a file was removed, a step has gone on since, or another checkpoint was put back. The caller keeps
        others from filling at the same time."""
        states = self.states()
        ended = {name for cell in plan.cells if states.get(cell.name) == DONE for name in cell.steps}
        look = cache(lambda name: standing(self.folder.run(name)))  # cached, for it reads a checkpoint whole
        lost = {name for name in ended if not self._stands(plan.steps[name], look)}
        for cell in plan.cells:
            if cell.name not in states or self._lost(cell, states[cell.name], lost):
                self._enqueue(cell)

    def add_done(self, cell: Cell, grid: Grid, value: float | None) -> None:
        """Add a trial that has ended well, for a cell that needs no worker. The caller keeps others from filling."""
        self._enqueue(cell)
        trial_id = self.trial_id(len(self.trials()) - 1)
        self._starts(trial_id)
        self.record(trial_id, cell, grid)
        self.end(trial_id, DONE, value)

    def _stands(self, run: StepRun, look: Look) -> bool:
        """Whether the record of a step exists and still holds; its checkpoint may be gone."""
        done = read(self.folder.done(run.name), Done)
        return done is not None and agrees(run, self.folder, done, if_lost=True, look=look)

    def _lost(self, cell: Cell, state: str, lost: Set[str]) -> bool:
        """Whether an ended cell lacks its record or has another cell's, or whether a done cell uses a lost step."""
        if state not in (DONE, FAILED):
            return False
        record = read(self.folder.cell(cell.name), Record)
        return record is None or not is_of(record, cell) or (state == DONE and not lost.isdisjoint(cell.steps))

    def trial_id(self, number: int) -> int:
        """The storage's id of a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id, deepcopy=False, states=states)

    def states(self) -> dict[str, str]:
        """Cell (of a search `trial=7`) -> state of its newest trial, one of WORDS."""
        return {self._cell(trial): WORDS[trial.state] for trial in self.trials()}

    def _cell(self, trial: FrozenTrial) -> str:
        """The cell of a trial. Raises SweepError for a cell that the grid does not have: names of cells become names of
        files, and a storage may come from anybody."""
        if self.points is None:
            return f"trial={trial.number}"
        name = trial.user_attrs.get("cell")
        if not isinstance(name, str) or name not in self.points:
            raise SweepError(
                f"the sweep's storage: trial {trial.number} is of cell {shown(name)}, which is no cell of this sweep: "
                "remove the storage, and its queue is made anew; what is done stays done"
            )
        return name

    @contextmanager
    def take(self, blocked: Callable[[str], bool]) -> Iterator[tuple[str, int] | None]:
        """(cell, trial id) to run within the context, or None if nothing is open, or all that is open is `blocked`.

        The cell is this worker's alone. A waiting trial is taken by the storage's own exchange of states, a killed
        worker's trial by its lock, which is held until the context ends.
        """
        for trial in self.trials(OPEN):
            cell = self._cell(trial)
            if blocked(cell):
                continue
            with try_lock(self.folder.lock(f"cells/{cell}")) as lock:
                trial_id = self.trial_id(trial.number)
                if lock is not None and self._starts(trial_id):
                    yield cell, trial_id
                    return
        yield None

    def _starts(self, trial_id: int) -> bool:
        """Whether the trial runs from now on: it was waiting, or its worker was killed."""
        state = self.storage.get_trial(trial_id).state
        if state == TrialState.WAITING:
            return self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return state == TrialState.RUNNING

    def end(self, trial_id: int, state: str, value: float | None = None) -> None:
        """Close a trial as done, failed or pruned. value: the headline metric; None if the cell cannot have it."""
        self.storage.set_trial_state_values(trial_id, ENDS[state], None if value is None else [value])

    def put_back(self, trial_id: int) -> None:
        """Let a cell wait again, because its worker stops before it ended. A storage that is gone is not waited for: a
        running trial without its lock is taken over anyway."""
        self.storage.storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def record(self, trial_id: int, cell: Cell, grid: Grid) -> None:
        """Store labels and seed as the trial's parameters, for people who read the study with Optuna's own tools."""
        there = self.storage.get_trial(trial_id).params
        choices = {axis: list(of_axis) for axis, of_axis in grid.axes.items()} | {"seed": grid.seeds}
        for name, value in (cell.labels | {"seed": cell.seed}).items():
            if name not in there:  # a killed worker may have got this far
                distribution = CategoricalDistribution(choices[name])
                self.storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)

    def failed(self) -> list[str]:
        """A grid's cells whose newest trial failed."""
        return [cell for cell, state in self.states().items() if state == FAILED]

    def put_again(self, cells: Iterable[str]) -> None:
        """Add a new waiting trial for each of these cells."""
        for cell in cells:
            self._enqueue(self.points[cell])

    def _enqueue(self, cell: Cell | Point) -> None:
        self.study.enqueue_trial(cell.labels | {"seed": cell.seed}, user_attrs={"cell": cell.name})


def _mark(folder: Folder) -> str:
    """The id of a folder, the same wherever it is mounted or moved to; written once."""
    file = folder.root / "folder_id.txt"
    if not file.exists():
        write_text(file, uuid.uuid4().hex)
    return read_text(file)
