"""Links in folders: followed where the user has laid something out, never out of what a program has written.

Images, annotations and shards may lie on other disks, behind links of one's own. A run, a sweep, a section of cached
features, an index and a cache are written by this package, which makes no link in them: one that leads out of such a
folder was put there by somebody else, to have another file read or written in its place. The folder itself may be
reached by a link, for it is the user who names it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lit_blip2.contents import DataError, check_regular


def below(folder: Path) -> list[Path]:
    """Every file below a folder, behind links too, in the order of their names; each real folder once, as links may
    lead in circles."""
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
    """Raises DataError for the first of some files in a folder that is a link, or behind one, which leads out of it."""
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
    socket, for whose other end its reader would wait; a folder is read and written as a whole. No link is followed."""
    for each in others_in(folder):
        check_inside(folder, [each])
        check_regular(each)


def others_in(folder: str | Path) -> Iterator[Path]:
    """All below a folder that is neither a file nor a folder: links, none of them followed, and FIFOs."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError, PermissionError):  # removed meanwhile; not to be read
                    yield from others_in(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
