"""A storage that may be gone for a while: calls to it wait until it is back."""

import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from lit_blip2.ablation.run.step import StoppedError
from lit_blip2.terminal import say

STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)
PATIENCE_SECONDS = 600  # enough to restart a database, or to make room on a disk
RETRY_SECONDS = 1.0


class Waiting:
    """An Optuna storage. A call that fails because the storage is gone, or its disk is full, is repeated once a second,
    for PATIENCE_SECONDS. A line says so, and another one when it is back.

    A failed call may have been carried out, with only its answer lost. Repeating a call is harmless, unless it makes or
    ends a trial. These two are handled here, and code that makes trials holds a lock. Setting `stop` ends the waiting
    with StoppedError.
    """

    def __init__(self, storage: optuna.storages.BaseStorage):
        self.storage, self.stop = storage, threading.Event()
        self._gone_since: float | None = None
        self._telling = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.storage, name)
        return partial(self._call, found) if callable(found) else found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number = self.get_n_trials(study_id)

        def create() -> int:
            if self.storage.get_n_trials(study_id) > number:
                return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
            return self.storage.create_new_trial(study_id, template_trial)

        return self._call(create)

    def _call(self, method: Callable, *arguments: Any, **named: Any) -> Any:
        began = failed = time.monotonic()
        while True:
            try:
                answer = method(*arguments, **named)
            except UpdateFinishedTrialError:
                if failed == began:
                    raise
                answer = True  # the call whose answer was lost has ended the trial
            except (OSError, *STORAGE_ERRORS) as error:
                failed = time.monotonic()
                if not is_gone(error):
                    raise
                if failed - began > PATIENCE_SECONDS:
                    raise StorageInternalError(reason(error)) from (error.__cause__ or error)
                self._wait(error)
                continue
            if failed != began:
                self._is_back()
            return answer

    def _wait(self, error: Exception) -> None:
        """Wait a little. Raises StoppedError if the sweep is asked to end."""
        with self._telling:
            if self._gone_since is None:
                self._gone_since = time.monotonic()
                say(f"the queue's storage is gone ({reason(error)}): waiting for it, at most {PATIENCE_SECONDS} s")
        if hasattr(self.storage, "engine"):
            self.storage.engine.dispose()  # its connections lead to what was there before
        if self.stop.wait(RETRY_SECONDS):
            raise StoppedError from error

    def _is_back(self) -> None:
        with self._telling:
            if self._gone_since is not None:
                say(f"the queue's storage is back after {time.monotonic() - self._gone_since:.0f} s")
            self._gone_since = None


def is_gone(error: Exception) -> bool:
    """Whether a storage cannot be reached or has no room, so that the error is not due to what was asked."""
    cause = _cause(error)
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    # SQLite raises OperationalError for a missing table or column, too.
    if isinstance(cause, OperationalError) and getattr(cause.orig, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
        return False
    return isinstance(cause, OSError | OperationalError | InterfaceError)


def reason(error: Exception) -> str:
    """What a storage's own error says, in a line."""
    cause = _cause(error)
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


def _cause(error: BaseException) -> BaseException:
    """The database's error behind Optuna's, and the first one of a session: Optuna goes on in a failed session."""
    if isinstance(error, StorageInternalError) and error.__cause__:
        return _cause(error.__cause__)
    if isinstance(error, PendingRollbackError) and error.__context__:
        return _cause(error.__context__)
    return error
