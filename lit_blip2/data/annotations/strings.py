"""Many strings as two arrays, so that worker processes share them.

A list of a million Python strings is copied page by page into every forked worker, because reading one
touches its reference count. One buffer of bytes and one array of offsets are not.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np


class Strings:
    """An immutable sequence of strings: `strings[i]`, `len(strings)`, iteration."""

    def __init__(self, texts: Iterable[str]):
        encoded = [text.encode() for text in texts]
        self.offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded], dtype=np.int64)])
        self.buffer = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def from_arrays(cls, buffer: np.ndarray, offsets: np.ndarray) -> "Strings":
        """Text i is bytes offsets[i] to offsets[i + 1] of the buffer: uint8 [bytes], int64 [n + 1], maybe mapped."""
        made = cls.__new__(cls)
        made.buffer, made.offsets = buffer, offsets
        return made

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """What `from_arrays` takes."""
        return self.buffer, self.offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        return self.buffer[self.offsets[index] : self.offsets[index + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def digest_of(*parts: np.ndarray | Strings | None) -> str:
    """A hash of the bytes of arrays and texts; None is skipped."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for array in part.arrays() if isinstance(part, Strings) else [] if part is None else [part]:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
