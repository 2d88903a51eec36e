"""The queue of cells: an Optuna study, one trial per cell, shared by any number of workers.

A trial waits, runs, and ends once: COMPLETE, FAIL or PRUNED. While it runs its worker holds the cell's lock; a trial
that runs without one belonged to a killed worker, and is taken over by whoever comes next.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from lit_blip2.ablation.run.folder import Folder, is_locked, try_lock
from lit_blip2.ablation.run.plan import Plan, PlannedCell
from lit_blip2.ablation.spec.grid import Grid

JOURNAL = "journal:"
STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, SQLAlchemyError)
OPEN = (TrialState.WAITING, TrialState.RUNNING)
STARTUP_TRIALS = 4  # of a search, before any is pruned
BUSY_SECONDS = 120  # how long SQLite waits for another worker's write


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """SQLite, PostgreSQL (any SQLAlchemy URL), or `journal:FILE` for a file on a shared file system.

    Raises ConnectionError that names the storage and why it cannot be reached.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if url.startswith(JOURNAL):
            file = Path(url.removeprefix(JOURNAL)).resolve()  # Optuna's lock is a link, broken where it is relative
            file.parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
        if url.startswith("postgresql://"):  # SQLAlchemy would take another driver than the one that is installed
            url = "postgresql+psycopg2://" + url.removeprefix("postgresql://")
        if url.rstrip("/") == "sqlite:" or ":memory:" in url:
            raise ValueError("a queue in memory is seen by one process alone")
        connect = {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}
        engine = {"connect_args": connect, "pool_pre_ping": True}
        return optuna.storages.RDBStorage(url, engine_kwargs=engine)
    except Exception as error:
        shown = url if "@" not in url else url.partition("://")[0] + "://...@" + url.rpartition("@")[2]
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"--storage {shown} cannot be used ({reason}). It may be sqlite:///FILE, postgresql://USER@HOST/DATABASE "
            f"(needs psycopg2-binary) or {JOURNAL}FILE"
        ) from error


class Queue:
    """The cells of one sweep in a storage."""

    def __init__(self, storage: optuna.storages.BaseStorage, grid: Grid, identity: str, folder: Folder):
        """Join the study of this name, or make it. Raises ValueError if it belongs to another grid or folder."""
        self.folder, self.storage = folder, storage
        self.seed = grid.seeds[0]
        self.study = optuna.create_study(
            study_name=grid.name, storage=storage, load_if_exists=True, direction=grid.direction
        )
        self.study_id = storage.get_study_id_from_name(grid.name)
        own = {"identity": identity, "folder": folder.mark()}
        for what, value in own.items():
            if self.study.user_attrs.get(what, value) != value:
                raise ValueError(
                    f"the storage already holds a sweep {grid.name!r} with another {what} "
                    f"({self.study.user_attrs[what]}; this one: {value}): give this one another name or --storage"
                )
            self.study.set_user_attr(what, value)

    def fill(self, plan: Plan) -> None:
        """A waiting trial for each cell that has none, or has ended by the queue and not by the folder (a file that was
        removed). The caller keeps others from filling at the same time."""
        states = self.states()
        for cell in plan.cells:
            if cell.name not in states or self._lost(cell, states[cell.name]):
                self.study.enqueue_trial(cell.labels | {"seed": cell.seed}, user_attrs={"cell": cell.name})

    def _lost(self, cell: PlannedCell, state: TrialState) -> bool:
        """Whether a file of a cell that has ended is gone."""
        needed = {TrialState.COMPLETE: [self.folder.done(name) for name in cell.steps], TrialState.FAIL: []}
        return state in needed and not all(file.exists() for file in [self.folder.cell(cell.name), *needed[state]])

    def trial(self, number: int) -> optuna.trial.Trial:
        """A trial to draw from, to report to and to prune.

        What it draws is a function of the grid's seed, its number and the trials that ended before: a sampler seeded
        alike in every process would have all workers, and those that come after them, draw the same points.
        """
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        study = optuna.load_study(
            study_name=self.study.study_name,
            storage=self.storage,
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        )
        study.get_trials(deepcopy=False)  # or the study's cache does not know another worker's trial
        return optuna.trial.Trial(study, self.trial_id(number))

    def trial_id(self, number: int) -> int:
        """The storage's id of a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def trial_lock(self, number: int) -> Path:
        return self.folder.lock(f"cells/trial={number}")

    def is_held(self, number: int) -> bool:
        """Whether a worker is at this trial."""
        return is_locked(self.trial_lock(number))

    def trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id, deepcopy=False, states=states)

    def states(self) -> dict[str, TrialState]:
        """Cell (of a search `trial=7`) -> state of its newest trial."""
        return {trial.user_attrs.get("cell", f"trial={trial.number}"): trial.state for trial in self.trials()}

    @contextmanager
    def take(self, blocked) -> Iterator[tuple[str, int] | None]:
        """(cell, trial id) to be run within the context, or None: nothing is open, or all that is open is `blocked`.

        The cell is this worker's alone: a waiting trial is taken by the storage's own exchange of states, and a killed
        worker's by its lock, which is held to the end of the context.
        """
        for trial in self.trials(OPEN):
            cell, number = trial.user_attrs["cell"], trial.number
            if blocked(cell):
                continue
            with try_lock(self.folder.lock(f"cells/{cell}")) as lock:
                if lock is None:
                    continue
                trial_id = self.trial_id(number)
                state = self.storage.get_trial(trial_id).state
                if state not in OPEN:
                    continue
                if state == TrialState.WAITING and not self.storage.set_trial_state_values(
                    trial_id, TrialState.RUNNING
                ):
                    continue
                yield cell, trial_id
                return
        yield None

    def end(self, trial_id: int, state: TrialState, value: float | None = None) -> None:
        """Close a trial; `value` is the headline metric, None where the cell cannot have it."""
        self.storage.set_trial_state_values(trial_id, state, None if value is None else [value])

    def put_back(self, trial_id: int) -> None:
        """The worker stops before the cell ended: it waits again."""
        self.storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def record(self, trial_id: int, labels: dict[str, str], seed: int, grid: Grid) -> None:
        """Labels and seed as the trial's parameters, for whoever looks at the study with Optuna's own tools."""
        there = self.storage.get_trial(trial_id).params
        choices = {axis: list(of_axis) for axis, of_axis in grid.axes.items()} | {"seed": grid.seeds}
        for name, value in (labels | {"seed": seed}).items():
            if name not in there:  # a killed worker may have got this far
                distribution = CategoricalDistribution(choices[name])
                self.storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)

    def failed(self) -> list[str]:
        """A grid's cells whose newest trial failed."""
        return [cell for cell, state in self.states().items() if state == TrialState.FAIL]

    def put_again(self, cells: Iterable[str]) -> None:
        """A new waiting trial for each of these cells."""
        newest = {trial.user_attrs.get("cell"): trial for trial in self.trials()}
        for cell in cells:
            fixed = newest[cell].system_attrs.get("fixed_params", newest[cell].params)
            self.study.enqueue_trial(fixed, user_attrs={"cell": cell})
