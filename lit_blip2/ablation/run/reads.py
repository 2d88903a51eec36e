"""The files of others that a step has read: the code of classes of one's own, and what these read.

They are known once it has run. What its config names, the package, its sweep's folder and the libraries do not count:
they have a place of their own in the step's key or in the plan. See lit_blip2.reads for how they are found.
"""

import ast
import hashlib
import os
import re
import sysconfig
import tempfile
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.run import fingerprint
from lit_blip2.ablation.run.provenance import LIBRARIES
from lit_blip2.ablation.schema import Done, StepRun
from lit_blip2.config import strings
from lit_blip2.reads import LISTED, READ, READS, WRITTEN, Seen, read_log
from lit_blip2.sources import PACKAGE, digest

INSTALLED = tuple(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
OF_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/run/", "/usr/", "/var/")
MODULE = (".py", *EXTENSION_SUFFIXES)
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
LONGEST_NAME = 200  # of a file that a string may name
GONE = ""  # in the place of a digest


class ChangedError(ValueError):
    """A file is no longer what it was when a step read it."""


def asked_to_record(run: StepRun, folder: Folder) -> dict[str, str]:
    """What the environment of the step's process has besides."""
    return {READS: os.pathsep.join([os.path.abspath(_log(run, folder)), *_left_out(run, folder)])}


def collect(run: StepRun, folder: Folder) -> dict[str, str]:
    """File -> digest, and `FOLDER/*.txt` -> digest of such names, for a folder that was listed. Paths below the
    working folder are relative to it. Removes the log.

    Raises ChangedError for a file that has changed since it was read, but for one that the step wrote.
    """
    log = _log(run, folder)
    if not log.is_file():
        return {}
    seen = read_log(str(log))
    written = {each.path for each in seen if each.kind == WRITTEN}
    counted = [each for each in seen if each.path not in written and _counts(each.path, _tops(run.config))]
    files = {each.path: each for each in counted if each.kind == READ}
    for each in counted:
        if each.kind == READ and not _is_as_seen(each):
            raise ChangedError(
                f"{_shown(each.path)} changed while the step ran: its metrics may be of either version. Remove "
                f"{log.parent}, and start the sweep again with --retry-failed"
            )
    left_out = tuple(_left_out(run, folder))
    named = {name for path in files if path.endswith(".py") for name in _named_files(path)} - written
    named = {name for name in named if not name.startswith(left_out)}
    patterns = {
        f"{each.path}/*{Path(path).suffix}"
        for each in counted
        if each.kind == LISTED
        for path in files
        if os.path.dirname(path) == each.path and not path.endswith(MODULE)
    }
    log.unlink()
    return {_shown(path): _digest(path) for path in sorted({*files, *named, *patterns})}


def check_unchanged(folder: Folder) -> None:
    """Raises ChangedError where a file is no longer as a step that has ended read it."""
    for file in sorted(folder.root.glob("runs/*/**/done.json")):
        done = read(file, Done)
        for path, known in (done.reads if done else {}).items():
            if _digest(path) != known:
                raise ChangedError(
                    f"{path} has changed since {file.parent} read it: the sweep's cells would not be comparable. Put "
                    "it back, or begin another sweep with --out. (A sweep is best run from a checkout of its own.)"
                )


def _log(run: StepRun, folder: Folder) -> Path:
    return folder.run(run.name) / "reads.jsonl"


def _left_out(run: StepRun, folder: Folder) -> list[str]:
    return list(map(os.path.abspath, [PACKAGE, folder.root, *map(fingerprint.find, fingerprint.paths(run.config))]))


def _tops(config: object) -> tuple[str, ...]:
    """Of the installed packages that a config names, where they lie; a plan keeps the versions of LIBRARIES."""
    tops = {text.partition(".")[0] for text in strings(config) if DOTTED.fullmatch(text)} - {PACKAGE.name, *LIBRARIES}
    return tuple(f"{place}/{top}{end}" for place in INSTALLED[2:] for top in tops for end in ("/", ".py"))


def _counts(path: str, tops: tuple[str, ...]) -> bool:
    """Whether a file is of somebody who extends this package: of the libraries those that the config names."""
    real, here = os.path.realpath(path), os.path.join(os.getcwd(), "")
    if real.startswith(INSTALLED):
        return real.startswith(tops)
    if path.startswith(here):
        return True
    temporary, home = os.path.join(tempfile.gettempdir(), ""), os.path.join(os.path.expanduser("~"), ".")
    return not real.startswith((*OF_SYSTEM, temporary, home))


def _is_as_seen(seen: Seen) -> bool:
    with suppress(OSError):
        now = os.stat(seen.path)
        return (now.st_mtime_ns, now.st_size) == (seen.written_ns, seen.size)
    return False


def _named_files(module: str) -> set[str]:
    """Files that strings of a module name, from its folder, from the working folder, or from a folder that another
    string names: code in C++ or Rust may read them."""
    try:
        nodes = ast.walk(ast.parse(Path(module).read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return set()
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    texts = {text for text in texts if text.isprintable() and 0 < len(text) < LONGEST_NAME and text.strip("./")}
    roots = [os.path.dirname(module), os.getcwd()]
    inner = [os.path.join(root, text) for root in roots for text in texts]
    places = roots + [path for path in inner if os.path.isdir(path)]
    return {path for place in places for text in texts if os.path.isfile(path := os.path.join(place, text))}


def _shown(path: str) -> str:
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def _digest(path: str) -> str:
    """Of a file, or of the names that a pattern finds; GONE if there is nothing."""
    folder, name = os.path.split(path)
    if name.startswith("*"):
        return digest((each.name, b"") for each in sorted(Path(folder).glob(name)))
    try:
        now = os.stat(path)
    except OSError:
        return GONE
    return _of_file(path, now.st_mtime_ns, now.st_size)


@cache
def _of_file(path: str, written_ns: int, size: int) -> str:
    return hashlib.sha256(fingerprint.contents(Path(path))).hexdigest()[:16]
