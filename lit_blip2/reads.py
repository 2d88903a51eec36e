"""Records which files a process reads: those that it opens, modules that it imports, folders that it lists.

The environment variable READS turns this on, also in processes that are forked or spawned. Of other programs that are
started, files among their arguments count. Files opened by code in C++ or Rust are not seen.
"""

import json
import os
import stat
import sys
from contextlib import suppress
from importlib.util import source_from_cache
from typing import Any, NamedTuple

READS = "LIT_BLIP2_READS"  # JSON: a log file with a line for each, and paths that are left out
READ, UPDATED, WRITTEN, LISTED, MISSED = "read", "updated", "written", "listed", "missed"
EVENTS = {"open", "import", "os.rename", "os.listdir", "os.scandir", "sqlite3.connect", "subprocess.Popen"}


class Seen(NamedTuple):
    """One record.

    kind: READ; UPDATED, opened to read and write; WRITTEN, made or added to; LISTED, a folder; MISSED, looked for and
    not there. written_ns, size: when the file was last written, and its size, as it was opened; 0 if not read.
    """

    kind: str
    path: str
    written_ns: int
    size: int


def record_if_asked() -> None:
    """Write lines of Seen from now on, if the environment asks for it."""
    if asked := os.environ.get(READS):
        log, *left_out = json.loads(asked)
        _record(log, left_out)


def read_log(log: str) -> list[Seen]:
    """The records of all processes that wrote to this log."""
    with open(log, encoding="utf-8") as lines:
        return [Seen(*json.loads(line)) for line in lines]


def _record(log: str, left_out: list[str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    known: set[tuple[str, str]] = set()
    below = tuple(f"{path}{os.sep}" for path in left_out)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS:
            return
        for kind, touched in _touched(event, arguments):
            with suppress(OSError, ValueError):  # no file's name: opening it will raise
                path = os.path.abspath(os.fsdecode(touched))
                if (kind, path) not in known and (kind == WRITTEN or not f"{path}{os.sep}".startswith(below)):
                    known.add((kind, path))
                    os.write(descriptor, _line(kind, path))

    sys.addaudithook(note)


def _touched(event: str, arguments: tuple[Any, ...]) -> list[tuple[str, str | bytes]]:
    """(kind, path) of what an event of sys.addaudithook is about to touch."""
    found: list[tuple[str, Any]] = []
    if event == "open":
        path, _, flags = arguments
        makes = flags & os.O_WRONLY or (flags & os.O_RDWR and flags & (os.O_CREAT | os.O_TRUNC))
        found = [(WRITTEN if makes else UPDATED if flags & os.O_RDWR else READ, path)]
    elif event == "import":
        found = [(READ, arguments[1])]  # the file of a compiled module; None for others, which are opened
    elif event == "os.rename":
        found = [(WRITTEN, arguments[0]), (WRITTEN, arguments[1])]  # an output's old name counts too
    elif event == "sqlite3.connect":
        found = [(UPDATED, arguments[0])]
    elif event == "subprocess.Popen":
        given = arguments[1] if isinstance(arguments[1], list | tuple) else []
        found = [(READ, each) for each in given if isinstance(each, str | bytes | os.PathLike) and os.path.isfile(each)]
    elif not _is_import():
        found = [(LISTED, arguments[0])]
    return [(kind, os.fspath(path)) for kind, path in found if isinstance(path, str | bytes | os.PathLike)]


def _is_import() -> bool:
    """Whether the import system is what lists the folder."""
    return "importlib" in sys._getframe(3).f_code.co_filename


def _line(kind: str, path: str) -> bytes:
    with suppress(ValueError, NotImplementedError):
        path = source_from_cache(path) if path.endswith(".pyc") else path
    seen = Seen(kind, path, 0, 0)
    if kind in (READ, UPDATED):
        try:
            now = os.stat(path)
            if not stat.S_ISREG(now.st_mode):
                return b""
            seen = Seen(kind, path, now.st_mtime_ns, now.st_size)
        except OSError:
            seen = Seen(MISSED, path, 0, 0)
    return json.dumps(seen).encode() + b"\n"
