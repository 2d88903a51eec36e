"""Tells errors that are messages for the user, printed as one line, from faults of a program, whose traceback is
needed."""

import errno
import os
import re
from collections.abc import Iterator
from dis import opname
from types import TracebackType

from lit_blip2.complaints import reason

SHOW_TRACEBACKS = "JSONARGPARSE_DEBUG"  # environment variable that makes the parser show its own tracebacks, too
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: the disk is full, or the user's quota
CHECKS = (ValueError, OSError, ImportError, FloatingPointError, RuntimeError)
# The last frame of an error in a loader process, if one of our files raised it on purpose; group 1 is its message.
FROM_LOADER = re.compile(
    r'[^"]*[/\\]lit_blip2[/\\][^"]*", line \d+, in [^\n]+\n\s+raise [^\n]*\n(?:\s[^\n]*\n)*[\w.]+: (.*?)\s*', re.DOTALL
)


def refusal(error: BaseException) -> str | None:
    """The message of an error that is meant for the user; None for a fault of a program, and always if SHOW_TRACEBACKS
    is set.

    Such errors come from this package's checks, from the file system, or from Lightning because of an argument of the
    Trainer or of a callback.
    """
    if tracebacks_shown():
        return None
    while error.__cause__ is not None and _raised_by(error).startswith("jsonargparse."):
        if str(error.__cause__).startswith("Not a valid subclass of"):
            return reason(str(error))  # names the class's own error; the cause is only of the first type tried
        error = error.__cause__  # what a constructor raised
    raised_by = _raised_by(error)
    if raised_by == "torch._utils" and "Original Traceback" in str(error):
        last = FROM_LOADER.fullmatch(str(error).rpartition('  File "')[2])
        return last and last[1]
    if isinstance(error, TypeError) and _module_of_last(error).startswith("jsonargparse."):  # wrong class arguments
        return f"{error}: docs/extend.md says what a class of each kind is built with"
    if isinstance(error, OSError) and error.filename is not None:
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:  # while writing, with no file's name
        return f"{error}: free some space and run the same command again; add --resume to go on with a training"
    ours = raised_by.startswith("lit_blip2.") and isinstance(error, CHECKS)
    building = any(frame.tb_frame.f_code.co_name in ("instantiate_classes", "_set_seed") for frame in _frames(error))
    lightnings = raised_by.startswith("lightning." if building else "lightning.pytorch.callbacks.")
    if (ours or lightnings) and not isinstance(error, NotImplementedError):
        return str(error)
    return None


def tracebacks_shown() -> bool:
    """Whether SHOW_TRACEBACKS is set to true, as jsonargparse reads it."""
    return os.environ.get(SHOW_TRACEBACKS, "").lower() == "true"


def _raised_by(error: BaseException) -> str:
    """The name of the module whose `raise` made an error; empty where it came out of a call, such as int("x")."""
    if not (frames := list(_frames(error))):
        return ""
    last = frames[-1]
    on_purpose = opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return _module_of_last(error) if on_purpose else ""


def _module_of_last(error: BaseException) -> str:
    """The name of the module in which an error arose; empty for one that was never raised."""
    frames = list(_frames(error))
    return frames[-1].tb_frame.f_globals.get("__name__", "") if frames else ""


def _frames(error: BaseException) -> Iterator[TracebackType]:
    frame = error.__traceback__
    while frame is not None:
        yield frame
        frame = frame.tb_next
