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

from lit_blip2.contents import DataError


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
    home = os.path.realpath(folder)
    for file in files:
        real = os.path.realpath(file)
        if os.path.commonpath([home, real]) != home:
            raise DataError(
                f"{file} leads out of {folder}, to {real}, by a link: what is not in a folder that was written by this "
                "package is not taken for a part of it. Copy it there if it is yours"
            )


def check_links(folder: Path) -> None:
    """Raises DataError for the first link anywhere in a folder that leads out of it; a folder is read and written as a
    whole. None of them is followed."""
    check_inside(folder, _links(folder))


def _links(folder: str | Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):  # another process has removed it meanwhile
                    yield from _links(entry.path)
