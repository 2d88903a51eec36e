"""Writes files and folders whole or not at all, and by one process at a time."""

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

from lit_blip2.refusals import FULL
from lit_blip2.terminal import readable

LEAST_FREE = 2**16  # bytes: a disk with fewer free ones is full
PART = re.compile(r"\.(?P<name>.+)\.part-(?P<host>.+)-(?P<pid>\d+)")


@contextmanager
def written_whole(path: Path, size: int = 0) -> Iterator[Path]:
    """Context with a temporary path beside `path`, for a file or folder. It becomes `path` at the end, or is removed at
    an error.

    The former `path` stays until then. If a process is killed while it writes, the next one that writes `path` removes
    what is left. size: bytes that will be written, if known.

    Raises OSError that names the file, the bytes that it needs and those that are free, if the disk is full.
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
    except BaseException as error:
        full = _full_disk(error, path, part, size) if isinstance(error, Exception) else None
        _remove(part)
        if full is None:
            raise
        raise full from error


def _full_disk(error: Exception, path: Path, part: Path, size: int) -> OSError | None:
    """The error to raise if a full disk caused this one, else None."""
    if (number := getattr(error, "errno", None)) not in (None, *FULL):
        return None
    written, free = _size(part), shutil.disk_usage(path.parent).free
    # safetensors has the error number in its text, torch and numpy do not.
    told = number is not None or any(f"os error {each})" in str(error) for each in FULL)
    if not told and free >= LEAST_FREE:
        return None
    return OSError(
        f"not enough disk space for {path}: it needs {readable(max(size, written, _size(path)))} or more, "
        f"{readable(free + written)} are free. The previous file is intact. Free some space and run the same command "
        "again; add --resume to go on with a training"
    )


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


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
    """Wait until a file, or the names in a folder, are on the disk, where they outlive a crash of the machine."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished copies of `path` that killed processes of this machine have left."""
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
    """Context that locks a folder for writing. Raises OSError if another process writes it."""
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
