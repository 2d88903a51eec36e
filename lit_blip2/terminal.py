"""Text for a terminal: foreign text, such as file names and captions, without control characters; sizes and times with
units; the first few of a long list."""

import logging
import re
import sys
import traceback
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import IO

PROGRAM = "python -m lit_blip2"  # in every help, also of `lit-blip2`: true wherever the package can be imported
PLAIN_WARNING = warnings.formatwarning
# Control characters of ASCII and Latin-1 (a terminal's escapes begin with one), marks that turn the direction of
# writing, and halves of surrogate pairs, which cannot be printed; a tab and the end of a line may stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """A text with its control characters written out, such as \\x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(*lines: object, error: bool = False) -> None:
    """Print lines, printable, to standard output or to standard error."""
    print(*map(printable, lines), sep="\n", file=sys.stderr if error else sys.stdout, flush=True)


def one_line(text: object, most: int | None = None) -> str:
    """A text, such as a library's error, on one line and cut after `most` characters."""
    return " ".join(str(text).split())[:most]


def readable(count: float) -> str:
    """A number of bytes with a unit, such as 724 KB or 1.3 TB."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def duration(seconds: float) -> str:
    """A time with a unit, such as 45 s, 12 min, 3.5 h or 2.1 days."""
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def first_few(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """The first of many texts and how many more there are, such as `a, b and 3 more`, or `a; b; and 3 more`."""
    more = f"{between.rstrip(', ')} and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def guard(places: bool = True) -> None:
    """Make warnings, log lines, tracebacks and a parser's messages printable in this process from now on: all of them
    may hold names of files. places: whether a warning to the user names its line of code."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, file=None, line=None) -> None:
        plain = not places and issubclass(category, UserWarning)
        told = f"warning: {message}\n" if plain else PLAIN_WARNING(message, category, filename, lineno, line)
        (file or sys.stderr).write(printable(told))

    warnings.showwarning = show  # Lightning has a formatwarning of its own, which would take the place of one set here
    logging.setLogRecordFactory(_Record)
    ArgumentParser._print_message = _printed
    sys.excepthook = lambda *error: say("".join(traceback.format_exception(*error)).rstrip("\n"), error=True)


def _printed(parser: ArgumentParser, message: str, file: IO[str] | None = None) -> None:
    """Replaces the method by which a parser prints its messages."""
    if message:
        (file or sys.stderr).write(printable(message))


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())
