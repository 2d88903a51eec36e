"""Files and folders that are there whole or not at all, and written by one process at a time."""

import glob
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PART = re.compile(r"\.(?P<name>.+)\.part-(?P<host>.+)-(?P<pid>\d+)")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or folder under; it becomes `path` at the end, or is removed at an error.

    What was at `path` before is there until then. Nothing is left of a process that was killed while it wrote: who
    writes `path` next removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    part = path.with_name(f".{path.name}.part-{socket.gethostname()}-{os.getpid()}")
    try:
        yield part
        for file in [*part.rglob("*"), part] if part.is_dir() else [part]:
            _on_disk(file)
        part.rename(path)
        _on_disk(path.parent)
    except BaseException:
        _remove(part)
        raise


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_whole(file) as part:
        part.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any, indent: int | None = 2) -> None:
    """Write a value as JSON, whole or not at all. Raises ValueError for a number that is not finite: JSON has none."""
    try:
        text = json.dumps(content, indent=indent, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{file} is not written: {error}") from error
    write_text(file, text + "\n")


def _on_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk: they outlive the machine then."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _remove_abandoned(path: Path) -> None:
    """Parts of `path` whose process on this machine is no more."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.part-*"):
        found = PART.fullmatch(part.name)
        if found and found["host"] == socket.gethostname() and not _lives(int(found["pid"])):
            _remove(part)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


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
