"""Where a sweep's queue is kept: SQLite, PostgreSQL, or a journal on a shared file system."""

import logging
from pathlib import Path

import optuna
from sqlalchemy.exc import SQLAlchemyError

JOURNAL = "journal:"
STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, SQLAlchemyError)
LOST_STORAGE = "the queue's storage failed; what is done stays done: start the same command again when it is back"
BUSY_SECONDS = 120  # how long SQLite waits for another worker's write


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """SQLite, PostgreSQL (any SQLAlchemy URL), or `journal:FILE` for a file on a shared file system.

    Raises ConnectionError that names the storage and why it cannot be reached.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return _journal(url) if url.startswith(JOURNAL) else _database(url)
    except Exception as error:
        shown = url if "@" not in url else url.partition("://")[0] + "://...@" + url.rpartition("@")[2]
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"--storage {shown} cannot be used ({reason}). It may be sqlite:///FILE, postgresql://USER@HOST/DATABASE "
            f"(needs psycopg2-binary) or {JOURNAL}FILE"
        ) from error


def _journal(url: str) -> optuna.storages.BaseStorage:
    file = Path(url.removeprefix(JOURNAL)).resolve()  # Optuna's lock is a link, broken where it is relative
    file.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))


def _database(url: str) -> optuna.storages.BaseStorage:
    if url.startswith("postgresql://"):  # SQLAlchemy would take another driver than the one that is installed
        url = "postgresql+psycopg2://" + url.removeprefix("postgresql://")
    if url.rstrip("/") == "sqlite:" or ":memory:" in url:
        raise ValueError("a queue in memory is seen by one process alone")
    connect = {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": connect, "pool_pre_ping": True})


def lost_storage(error: Exception) -> str:
    """What a storage's own error says, and what to do."""
    return f"{LOST_STORAGE} ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
