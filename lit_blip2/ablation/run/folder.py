"""A sweep's folder on disk: what its files are called, how they are written, and the locks that workers hold.

    plan.json                what will be run, and what was asked
    cells/<cell>.json        of each cell that ended: its metrics, or why it failed
    runs/<step>/<labels>/    a run of an ordinary command; done.json or failed.json when it ended
    configs/, locks/         the resolved YAML of each step run, and a lock for each step run and cell
    study.db                 the queue, unless --storage names another
    tensorboard/<cell>/      one row of the HParams table, and the cell's curves

All workers must see one folder: on several machines, a shared file system. A lock is the kernel's (flock): it goes
with the last process that holds it, so that a killed worker's work is free at once, and an orphaned run that is still
training is waited for.
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

LEAST_FREE = 256 * 2**20  # bytes
WAIT_SECONDS = 0.5


class Folder:
    """Paths in a sweep's folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    def cell(self, name: str) -> Path:
        return self.root / "cells" / f"{name}.json"

    def run(self, name: str) -> Path:
        """The run folder of a step run, `stage1/itc=on,seed=0`."""
        return self.root / "runs" / name

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.yaml"

    def done(self, name: str) -> Path:
        return self.run(name) / "done.json"

    def failed(self, name: str) -> Path:
        return self.run(name) / "failed.json"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    def mark(self) -> str:
        """What tells this folder from others wherever it is mounted or moved to: a name of its own, written once."""
        file = self.root / "folder_id.txt"
        if not file.exists():
            file.write_text(uuid.uuid4().hex, encoding="utf-8")
        return file.read_text(encoding="utf-8")

    def check_space(self) -> None:
        """Raises OSError where the disk is nearly full: a run that ends in the middle of a checkpoint helps nobody."""
        free = shutil.disk_usage(self.root).free
        if free < LEAST_FREE:
            raise OSError(
                f"{free / 2**20:.0f} MiB are free on the disk of {self.root}, and a step needs {LEAST_FREE // 2**20}: "
                "make room, or move the folder and start the same command with --out"
            )


def write_json(file: Path, content: Any) -> None:
    """All of it or nothing: another process never reads half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(file)


def read_json(file: Path) -> Any:
    """The content, None if there is no such file. Raises ValueError that names a damaged one."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged ({error}): remove it, and what it stood for is run again") from error


def validations(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's validation.jsonl; one that a killed process left half written is passed over: the report
    tells of it."""
    file, points = run_folder / "validation.jsonl", []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):
            points.append(json.loads(line))
    return [point for point in points if isinstance(point, dict) and "step" in point]


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
        yield stream  # closing it, here and in every process that inherited it, lets go


@contextmanager
def wait_lock(file: Path) -> Iterator[None]:
    """The lock, as soon as nobody else holds it."""
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
