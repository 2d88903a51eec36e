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

from lit_blip2.refusals import FULL
from lit_blip2.terminal import readable

LEAST_FREE = 2**16  # bytes of a disk that is not full
PART = re.compile(r"\.(?P<name>.+)\.part-(?P<host>.+)-(?P<pid>\d+)")


@contextmanager
def written_whole(path: Path, size: int = 0) -> Iterator[Path]:
    """A name beside `path` to write a file or folder under; it becomes `path` at the end, or is removed at an error.

    What was at `path` before is there until then. Nothing is left of a process that was killed while it wrote: who
    writes `path` next removes it. size: bytes that will be written, where they are known.

    Raises OSError that names the file, the bytes that it needs and those that are free, where the disk is full.
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
    """What to say where a full disk is the reason of an error."""
    if (number := getattr(error, "errno", None)) not in (None, *FULL):
        return None
    written, free = _size(part), shutil.disk_usage(path.parent).free
    # safetensors tells the number in its words, torch and numpy do not.
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
    """Wait until a file, or the names in a folder, have reached the disk: they outlive the machine then."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished copies of `path` that processes of this machine have left when they were killed."""
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
