"""What tells that another image lies under a file's name than when its features were made, without decoding it.

A copy of a data set has other dates, so a date never makes a difference: it only saves opening the file where size and
date are still the same.
"""

import os
import zlib
from pathlib import Path
from typing import NamedTuple

ENDS = 256  # bytes at either end of a file: a PNG's and a zlib stream's checksum of all that is before are in the last


class Mark(NamedTuple):
    """A file's bytes, its date in nanoseconds, and the CRC-32 of its first and last bytes. All 0: not known."""

    size: int = 0
    date: int = 0
    ends: int = 0


def mark_of(path: Path | None) -> Mark:
    """The mark of a file; not known for one that is not there, or may not be read."""
    try:
        stat = os.stat(path) if path else None
        return Mark(stat.st_size, stat.st_mtime_ns, _ends(path, stat.st_size)) if stat else Mark()
    except OSError:
        return Mark()


def is_other(path: Path, mark: Mark) -> bool:
    """Whether a file differs from its mark; false where either is not known: features are read without their images."""
    try:
        stat = os.stat(path)
        if not any(mark) or (stat.st_size, stat.st_mtime_ns) == mark[:2]:
            return False
        return stat.st_size != mark.size or _ends(path, stat.st_size) != mark.ends
    except OSError:
        return False


def _ends(path: Path, size: int) -> int:
    with open(path, "rb", buffering=0) as file:
        first = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        return zlib.crc32(file.read(ENDS), zlib.crc32(first))
