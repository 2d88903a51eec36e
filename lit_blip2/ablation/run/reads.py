"""Files that a step read besides those that its config names: the code of the user's own classes, and what that code
read.

They are known only once the step has run. This package, the sweep's folder, installed libraries and the files that the
config names are left out: the step's key, or the plan, covers those. See lit_blip2.reads for how files are noticed.
"""

import json
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.run import fingerprint
from lit_blip2.ablation.run.unseen import MODULE, data_of, digest_of_library, libraries
from lit_blip2.ablation.schema import BY_PIP, NO_FILES, Done, Plan, StepRun
from lit_blip2.reads import LISTED, MISSED, READ, READS, UPDATED, WRITTEN, Seen, read_log
from lit_blip2.sources import PACKAGE, digest

INSTALLED = tuple(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
INSTALLED += (os.path.realpath(site.getusersitepackages()),)
PROGRAMS = tuple(os.path.join(prefix, "bin", "") for prefix in (sys.prefix, sys.base_prefix))  # Python's own
OF_SYSTEM = (*NO_FILES, "/etc/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/usr/bin/", "/usr/sbin/")
OF_SYSTEM += ("/usr/lib/", "/usr/share/", "/var/cache/")
# Folders of libraries below the home folder.
OF_LIBRARIES = (".config/matplotlib/", ".cache/huggingface/", ".cache/matplotlib/", ".cache/torch/", ".triton/", ".nv/")
# Ends of the names under which pip records what is installed; those of an editable package lie beside its sources.
BY_INSTALLING = (".egg-info", ".dist-info", ".__path_hook__")
GONE, OUTPUT = "", "written"  # in place of a digest


class ChangedError(ValueError):
    """A file is no longer what it was when a step read it."""


def asked_to_record(run: StepRun, folder: Folder) -> dict[str, str]:
    """Environment variables that make the step's process record what it reads."""
    return {READS: json.dumps([os.path.abspath(_log(run, folder)), *_left_out(run, folder)])}


def collect(run: StepRun, folder: Folder, began: float) -> dict[str, str]:
    """What the step read, file -> digest of its contents. Paths below the working folder are relative to it. Removes
    the log.

    In place of a digest stands GONE for a file that was looked for and missing, and OUTPUT for one that the step wrote.
    `FOLDER/*.txt` -> digest of the names of such files, for a folder that was listed. `NAME (installed)` -> digest of
    an installed library.

    Args: began: when the step began, in seconds.

    Raises ChangedError for a file that has changed since it was read, unless the step itself wrote it.
    """
    log = _log(run, folder)
    if not log.is_file():
        return {}
    seen = read_log(str(log))
    left_out, written = tuple(_left_out(run, folder)), {each.path for each in seen if each.kind == WRITTEN}
    counted = [each for each in seen if each.path not in written and _counts(each.path)]
    if odd := [each for each in counted if each.kind == READ and not _is_as_seen(each)]:
        raise ChangedError(
            f"{_shown(odd[0].path)} changed while the step ran: its metrics may be of either version. Remove "
            f"{log.parent}, and start the sweep again with --retry-failed"
        )
    here = os.path.join(os.getcwd(), "")
    files = {each.path for each in counted if each.kind == READ or (each.kind == MISSED and each.path.startswith(here))}
    files |= {each.path for each in counted if each.kind == UPDATED and _is_as_seen(each)}
    modules = [path for path in files if path.endswith(".py")]
    unseen = {path for path in data_of(modules) if _counts(path) and not path.startswith(left_out)} - written
    # A newer file that was not seen to be read is an output.
    files |= {path for path in unseen if os.stat(path).st_mtime <= began}
    own = tuple(os.path.join(os.path.abspath(each), "") for each in (PACKAGE, folder.root))
    made = {path for path in written if _counts(path) and os.path.isfile(path) and not path.startswith(own)}
    patterns = _patterns([each.path for each in counted if each.kind == LISTED], files)
    made |= {each for each in patterns if any(Path(path).match(each) for path in made)}
    patterns -= made
    found = [*sorted(files | patterns), *(f"{name}{BY_PIP}" for name in libraries(run.config, modules))]
    log.unlink()
    return {_shown(each): _digest(each) for each in found} | {_shown(each): OUTPUT for each in sorted(made)}


def check_unchanged(folder: Folder) -> None:
    """Raises ChangedError if a file has changed since an ended step read it, unless a step wrote it."""
    reads = _reads(folder)
    made = {path for path, known in reads if known == OUTPUT}
    for (path, known), run in reads.items():
        if path not in made and has_changed(path, known):
            raise ChangedError(
                f"{path} has changed since {run} read it: the sweep's cells would not be comparable. Put it back, or "
                "begin another sweep with --out. (A sweep is best run from a checkout of its own.)"
            )


def check_files(run: StepRun, plan: Plan, folder: Folder) -> None:
    """Raises ChangedError if a file that the step's config names has changed since the sweep began. A file that did not
    exist then is an output, also if it lies in a folder that the config names, and so is what a step has written. A
    folder that contains the sweep's own folder cannot be compared."""
    outputs = [Path(path).resolve() for path, known in _reads(folder) if known == OUTPUT]
    root = folder.root.resolve()
    for path in fingerprint.paths(run.config):
        real = fingerprint.find(path).resolve()
        if path not in plan.files or root.is_relative_to(real) or any(each.is_relative_to(real) for each in outputs):
            continue
        if plan.files[path] not in (fingerprint.of_path(path, plan.looked), fingerprint.of_path(path)):
            raise ChangedError(
                f"{path} has changed since this sweep began, and the config of {run.name} names it: put it back and "
                "start the same command again, or begin another sweep with --out"
            )


def has_changed(path: str, known: str) -> bool:
    """Whether what `collect` recorded under this name has changed. What the step wrote itself is not compared."""
    return known != OUTPUT and _digest(path) != known


def _reads(folder: Folder) -> dict[tuple[str, str], Path]:
    """(file, what `collect` recorded of it) -> a run that recorded it, over all ended steps. Each file occurs once,
    however many cells have read it."""
    files = sorted(folder.root.glob("runs/*/**/done.json"), reverse=True)
    return {told: file.parent for file in files for told in read(file, Done).reads.items()}


def _log(run: StepRun, folder: Folder) -> Path:
    return folder.run(run.name) / "reads.jsonl"


def _left_out(run: StepRun, folder: Folder) -> list[str]:
    return list(map(os.path.abspath, [PACKAGE, folder.root, *map(fingerprint.find, fingerprint.paths(run.config))]))


def _counts(path: str) -> bool:
    """Whether a file may be the user's own: it belongs neither to Python, nor to the system or a cache."""
    real, here = os.path.realpath(path), os.path.join(os.getcwd(), "")
    if real.startswith(INSTALLED) or path.startswith(PROGRAMS):
        return False
    if any(part.endswith(BY_INSTALLING) for part in path.split(os.sep)):
        return False
    if path.startswith(here):
        return f"{os.sep}.git{os.sep}" not in path
    home = os.path.expanduser("~")
    elsewhere = [os.path.join(tempfile.gettempdir(), ""), *(os.path.join(home, name) for name in OF_LIBRARIES)]
    return not real.startswith((*OF_SYSTEM, *elsewhere))


def _patterns(listed: Iterable[str], files: Iterable[str]) -> set[str]:
    """Patterns such as FOLDER/*.json, for each folder that was listed and whose files, or folders, were read. The names
    that they match show later whether some were added or removed."""
    data = [path for path in files if not path.endswith(MODULE)]
    found = {f"{each}/*{Path(path).suffix}" for each in listed for path in data if os.path.dirname(path) == each}
    inner = {each for each in listed for path in data if os.path.dirname(path).startswith(f"{each}/")}
    return found | {f"{each}/*/" for each in inner - {os.getcwd()}}


def _is_as_seen(seen: Seen) -> bool:
    with suppress(OSError):
        now = os.stat(seen.path)
        return (now.st_mtime_ns, now.st_size) == (seen.written_ns, seen.size)
    return False


def _shown(path: str) -> str:
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def _digest(path: str) -> str:
    """Digest of a file, of the names that a pattern finds, or of an installed library; GONE if there is nothing."""
    if path.endswith(BY_PIP):
        return digest_of_library(path.removesuffix(BY_PIP))
    folder, star, suffix = path.rpartition("/*")
    if star:
        names = [each for each in Path(folder).glob(f"*{suffix}") if each.name != "__pycache__"]
        return digest((each.name, b"") for each in sorted(names))
    return digest([("", fingerprint.contents(Path(path)))]) if os.path.isfile(path) else GONE
