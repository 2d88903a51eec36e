"""Which files a process reads: each that it opens, each module that it loads, each folder whose names it asks for.

A process does so where READS stands in its environment, as do those that it starts or forks. Code in C++ or Rust that
opens a file by itself is not seen.
"""

import json
import os
import stat
import sys
from contextlib import suppress
from importlib.util import source_from_cache
from typing import Any, NamedTuple

READS = "LIT_BLIP2_READS"  # a file that gets a line for each, and paths that are left out, joined as PATH is
READ, WRITTEN, LISTED = "read", "written", "listed"


class Seen(NamedTuple):
    """kind: READ, WRITTEN or LISTED. written_ns, size: the file's when it was opened, 0 of a folder."""

    kind: str
    path: str
    written_ns: int
    size: int


def record_if_asked() -> None:
    """Write lines of Seen from now on, if the environment asks for it."""
    if asked := os.environ.get(READS):
        log, *left_out = asked.split(os.pathsep)
        _record(log, left_out)


def read_log(log: str) -> list[Seen]:
    """What was seen, of all processes that wrote into this file."""
    with open(log, encoding="utf-8") as lines:
        return [Seen(*json.loads(line)) for line in lines]


def _record(log: str, left_out: list[str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    known: set[tuple[str, str]] = set()
    below = tuple(f"{path}{os.sep}" for path in left_out)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if (found := _touched(event, arguments)) is None:
            return
        with suppress(OSError, ValueError):  # no such file, or no name of one: who opens it will say so
            kind, path = found[0], os.path.abspath(os.fsdecode(found[1]))
            if (kind, path) in known or f"{path}{os.sep}".startswith(below):
                return
            line = _line(kind, path)
            known.add((kind, path))
            os.write(descriptor, line)

    sys.addaudithook(note)


def _touched(event: str, arguments: tuple[Any, ...]) -> tuple[str, str | bytes] | None:
    """How a path is touched, and which, by what Python says before it does something; None if none is."""
    kind, path = READ, None
    if event == "open":
        path, _, flags = arguments
        kind = WRITTEN if flags & (os.O_WRONLY | os.O_RDWR) else READ
    elif event == "import":
        path = arguments[1]  # of a compiled module; of another None, and it is opened
    elif event == "os.rename":
        kind, path = WRITTEN, arguments[1]
    elif event in ("os.listdir", "os.scandir") and not _is_import():
        kind, path = LISTED, arguments[0]
    return (kind, path) if isinstance(path, str | bytes) else None


def _is_import() -> bool:
    """Whether it is an import that looks into a folder."""
    return "importlib" in sys._getframe(3).f_code.co_filename


def _line(kind: str, path: str) -> bytes:
    with suppress(ValueError, NotImplementedError):
        path = source_from_cache(path) if path.endswith(".pyc") else path
    known = os.stat(path) if kind == READ else None
    if known and not stat.S_ISREG(known.st_mode):
        raise ValueError(f"{path} is no file")
    seen = Seen(kind, path, known.st_mtime_ns if known else 0, known.st_size if known else 0)
    return json.dumps(seen).encode() + b"\n"
