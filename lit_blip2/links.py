"""Links in folders: they are followed in the user's own folders, but never out of a folder that this package wrote.

Images, annotations and shards may lie on other disks, behind the user's links. A run, a sweep, a section of cached
features, an index and a cache are written by this package, which makes no links in them. So somebody else put a link
there that leads out of such a folder, to have another file read or written instead. The folder itself may be reached
by a link, because the user names it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lit_blip2.contents import DataError, check_regular


def below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, also behind links. Each real folder is visited once, as links may form
    circles."""
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(where) / name for name in names]
    return sorted(found)


def check_inside(folder: Path, files: Iterable[Path]) -> None:
    """Raises DataError for the first of some files in a folder that leads out of it, as a link or behind one."""
    for file in files:
        if leads_out(folder, file):
            raise DataError(
                f"{file} leads out of {folder}, to {os.path.realpath(file)}, by a link: what is not in a folder that "
                "was written by this package is not taken for a part of it. Copy it there if it is yours"
            )


def leads_out(folder: Path, file: Path) -> bool:
    """Whether a file in a folder is a link, or behind one, that leads out of it."""
    home = os.path.realpath(folder)
    return os.path.commonpath([home, os.path.realpath(file)]) != home


def check_links(folder: Path) -> None:
    """Raises DataError for the first link anywhere in a folder that leads out of it, and for a FIFO, a device or a
    socket, whose reader may wait for ever. All of the folder is checked, as all of it is used. No link is followed."""
    for each in others_in(folder):
        check_inside(folder, [each])
        check_regular(each)


def others_in(folder: str | Path) -> Iterator[Path]:
    """Everything below a folder that is neither a file nor a folder: links, which are not followed, and FIFOs."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError, PermissionError):  # removed meanwhile, or not readable
                    yield from others_in(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
