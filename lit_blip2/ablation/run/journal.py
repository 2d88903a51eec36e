"""A sweep's queue in a file: Optuna's journal, in which every line is whole."""

import errno
import fcntl
import json
import os
from typing import Any

from optuna.storages.journal import JournalFileBackend


class Journal(JournalFileBackend):
    """A journal that workers write in turn, under a kernel lock. A killed worker releases it at once; Optuna's own lock
    would hold up the others for half a minute.

    Optuna cannot read past half a line. So a line for which the disk has no room is taken back, and the next writer
    removes half a line that a dead machine has left. A missing file raises OSError; it is not made anew.
    """

    def __init__(self, file: str):
        super().__init__(file)
        self.file = file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with open(self.file, "r+b", buffering=0) as stream:  # a buffer would be written again when it is closed
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not os.path.samestat(os.fstat(stream.fileno()), os.stat(self.file)):
                raise FileNotFoundError(errno.ENOENT, "another file has been put in its place", self.file)
            end = _end_of_lines(self.file)
            stream.truncate(end)
            stream.seek(end)
            try:
                if stream.write(lines) < len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file)
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(end)
                raise


def _end_of_lines(file: str) -> int:
    """The place after the last whole line."""
    with open(file, "rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - 1))
        if end == 0 or stream.read() == b"\n":
            return end
        stream.seek(0)
        return stream.read().rfind(b"\n") + 1
