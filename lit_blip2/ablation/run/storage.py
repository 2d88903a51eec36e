"""Where a sweep's queue is kept: SQLite, PostgreSQL, or a journal on a shared file system."""

import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import event
from sqlalchemy.engine import make_url

from lit_blip2.ablation.run.journal import Journal
from lit_blip2.ablation.run.waiting import Waiting, reason
from lit_blip2.contents import DataError, check_regular

JOURNAL = "journal:"
LOST_STORAGE = "the queue's storage failed; what is done stays done: start the same command again when it is back"
SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # end of a rollback journal that names a super-journal
BUSY_SECONDS = 120  # how long SQLite waits for another worker's write
# For PostgreSQL, to notice a network that is gone: seconds to connect, and ms of silence of the other machine.
LIMITS = {"connect_timeout": 10, "tcp_user_timeout": 60_000}


def open_storage(url: str) -> Waiting:
    """Open a storage: SQLite, PostgreSQL (any SQLAlchemy URL), or `journal:FILE` for a file on a shared file system.

    Raises ConnectionError that names the storage and why it cannot be reached, DataError for a SQLite database with a
    journal beside it that would make SQLite remove other files.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return Waiting(_journal(url) if url.startswith(JOURNAL) else _database(url))
    except DataError:
        raise
    except Exception as error:
        shown = url if "@" not in url else url.partition("://")[0] + "://...@" + url.rpartition("@")[2]
        raise ConnectionError(
            f"--storage {shown} cannot be used ({reason(error)}). It may be sqlite:///FILE, "
            f'postgresql://USER@HOST/DATABASE (needs pip install -e ".[postgresql]") or {JOURNAL}FILE'
        ) from error


def _journal(url: str) -> optuna.storages.BaseStorage:
    file = Path(url.removeprefix(JOURNAL)).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(Journal(str(file)))


def _database(url: str) -> optuna.storages.BaseStorage:
    if url.startswith("postgresql://"):  # SQLAlchemy would take another driver than the one that is installed
        url = "postgresql+psycopg2://" + url.removeprefix("postgresql://")
    if url.rstrip("/") == "sqlite:" or ":memory:" in url:
        raise ValueError("a queue in memory is seen by one process alone")
    if url.startswith("sqlite"):
        _check_journal(make_url(url).database or "")
    limits = LIMITS if url.startswith("postgresql+psycopg2") else {}
    connect = {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else limits
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": connect, "pool_pre_ping": True})
    if url.startswith("sqlite"):
        event.listen(storage.engine, "do_connect", _is_there)
    return storage


def _check_journal(database: str) -> None:
    """Raises DataError for a rollback journal that names a super-journal: SQLite would remove the file of that name,
    wherever it lies. SQLite names one only for a transaction over several databases, which a queue never has."""
    journal = Path(f"{database.removeprefix('file:').partition('?')[0]}-journal")
    check_regular(journal)
    with suppress(FileNotFoundError), journal.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - len(SUPER_JOURNAL)))
        if stream.read() == SUPER_JOURNAL:
            raise DataError(
                f"{journal} names another journal, and SQLite would remove the file of that name: no sweep has written "
                "it. Remove it, or give another --out or --storage"
            )


def _is_there(dialect: Any, record: Any, arguments: list[Any], named: dict[str, Any]) -> None:
    """Raises SQLite's OperationalError if the file is gone: SQLite would make an empty one."""
    if not arguments[0].startswith("file:") and not Path(arguments[0]).exists():
        raise sqlite3.OperationalError(f"{arguments[0]} is not there")


def lost_storage(error: Exception) -> str:
    """A message with the storage's own error, and what to do."""
    return f"{LOST_STORAGE} ({reason(error)})"
