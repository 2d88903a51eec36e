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
        """A waiting trial for each cell that has none, or has ended by the queue and not by the folder: a file was
        removed, a step has gone on since, or a checkpoint of another one was put back. The caller keeps others from
        filling at the same time."""
        states = self.states()
        ended = {name for cell in plan.cells if states.get(cell.name) == DONE for name in cell.steps}
        look = cache(lambda name: standing(self.folder.run(name)))  # reads a checkpoint whole
        lost = {name for name in ended if not self._stands(plan.steps[name], look)}
        for cell in plan.cells:
            if cell.name not in states or self._lost(cell, states[cell.name], lost):
                self._enqueue(cell)

    def add_done(self, cell: Cell, grid: Grid, value: float | None) -> None:
        """A trial that has ended well, for a cell that needs no worker. The caller keeps others from filling."""
        self._enqueue(cell)
        trial_id = self.trial_id(len(self.trials()) - 1)
        self._starts(trial_id)
        self.record(trial_id, cell, grid)
        self.end(trial_id, DONE, value)

    def _stands(self, run: StepRun, look: Look) -> bool:
        """Whether the record of a step is there and holds; its checkpoint need not be there any more."""
        done = read(self.folder.done(run.name), Done)
        return done is not None and agrees(run, self.folder, done, if_lost=True, look=look)

    def _lost(self, cell: Cell, state: str, lost: Set[str]) -> bool:
        """Whether a cell that has ended lacks its record, has another's, or stands on one of the steps that are
        lost."""
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
        """Cell (of a search `trial=7`) -> how far its newest trial is, in one of WORDS."""
        return {self._cell(trial): WORDS[trial.state] for trial in self.trials()}

    def _cell(self, trial: FrozenTrial) -> str:
        """The cell that a trial is of. Raises SweepError for one that the grid does not have: names of cells are names
        of files, and a storage may come from anybody."""
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
        """(cell, trial id) to be run within the context, or None: nothing is open, or all that is open is `blocked`.

        The cell is this worker's alone: a waiting trial is taken by the storage's own exchange of states, and a killed
        worker's by its lock, which is held to the end of the context.
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
        """Whether the trial runs from now on: it waited, or its worker has been killed."""
        state = self.storage.get_trial(trial_id).state
        if state == TrialState.WAITING:
            return self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return state == TrialState.RUNNING

    def end(self, trial_id: int, state: str, value: float | None = None) -> None:
        """Close a trial as done, failed or pruned; `value` is the headline metric, None where the cell cannot have
        it."""
        self.storage.set_trial_state_values(trial_id, ENDS[state], None if value is None else [value])

    def put_back(self, trial_id: int) -> None:
        """The worker stops before the cell ended: it waits again. A storage that is gone is not waited for: without its
        lock, a trial that runs is taken over, too."""
        self.storage.storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def record(self, trial_id: int, cell: Cell, grid: Grid) -> None:
        """Labels and seed as the trial's parameters, for whoever looks at the study with Optuna's own tools."""
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
        """A new waiting trial for each of these cells."""
        for cell in cells:
            self._enqueue(self.points[cell])

    def _enqueue(self, cell: Cell | Point) -> None:
        self.study.enqueue_trial(cell.labels | {"seed": cell.seed}, user_attrs={"cell": cell.name})


def _mark(folder: Folder) -> str:
    """What tells a folder from others wherever it is mounted or moved to: a name of its own, written once."""
    file = folder.root / "folder_id.txt"
    if not file.exists():
        write_text(file, uuid.uuid4().hex)
    return read_text(file)
