"""Detects image files that were replaced since their features were made, without decoding them.

A copied data set has other dates, so a date alone never counts as a difference. It only saves opening the file if size
and date are unchanged.
"""

import os
import zlib
from pathlib import Path
from typing import NamedTuple

ENDS = 256  # bytes read at each end of a file: the last ones hold the checksums of a PNG and of a zlib stream


class Mark(NamedTuple):
    """A file's size in bytes, its date in nanoseconds, and the CRC-32 of its first and last bytes. All 0: unknown."""

    size: int = 0
    date: int = 0
    ends: int = 0


def mark_of(path: Path | None) -> Mark:
    """The mark of a file; unknown if the file is missing or may not be read."""
    try:
        stat = os.stat(path) if path else None
        return Mark(stat.st_size, stat.st_mtime_ns, _ends(path, stat.st_size)) if stat else Mark()
    except OSError:
        return Mark()


def is_other(path: Path, mark: Mark) -> bool:
    """Whether a file differs from its mark. False if either is unknown: features can be read without their images."""
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
