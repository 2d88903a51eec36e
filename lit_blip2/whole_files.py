"""Files and folders that are there whole or not at all, and written by one process at a time."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or folder under; it becomes `path` at the end, or is removed at an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        yield part
        part.rename(path)
    except BaseException:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While a folder is written. Raises OSError where another process writes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"another process is writing {folder}: wait for it, or give another folder") from None
    try:
        yield
    finally:
        lock.release()
