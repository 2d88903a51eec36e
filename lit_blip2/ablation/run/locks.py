"""The locks that workers hold in a sweep's folder.

All workers must see the same folder: on several machines, a shared file system. A lock is the kernel's (flock): it ends
with the last process that holds it. So a killed worker's work is free at once, and an orphaned run that is still
training is waited for.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

WAIT_SECONDS = 0.5


@contextmanager
def try_lock(file: Path) -> Iterator[IO | None]:
    """The open lock file, or None where another holds it. A subprocess that inherits it holds it too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield stream  # closing it, here and in every process that inherited it, releases the lock


@contextmanager
def wait_lock(file: Path) -> Iterator[None]:
    """Holds the lock within the context, as soon as nobody else holds it."""
    while True:
        with try_lock(file) as stream:
            if stream is not None:
                yield
                return
        time.sleep(WAIT_SECONDS)


def is_locked(file: Path) -> bool:
    """Whether another process (or another opening of the file) holds the lock."""
    with try_lock(file) as stream:
        return stream is None
