"""The parser of a command beside LightningCLI's. What it refuses ends in one line for each problem, and status 2."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any, NoReturn

from lit_blip2.complaints import no_file, problems
from lit_blip2.refusals import tracebacks_shown
from lit_blip2.terminal import PROGRAM, say


class Arguments(ArgumentParser):
    """argparse's parser, named after its command."""

    def __init__(self, command: str, description: str, **how: Any):
        formatter = RawDescriptionHelpFormatter
        super().__init__(f"{PROGRAM} {command}", description=description, formatter_class=formatter, **how)

    def parse_args(self, arguments: Sequence[str] | None = None) -> Any:
        """Unknown options are told before those that are missing: one may be the other, misspelt."""
        arguments = sys.argv[1:] if arguments is None else list(arguments)
        words = arguments[: arguments.index("--")] if "--" in arguments else arguments
        names = [word.partition("=")[0] for word in words if word.startswith("--")]
        known = self._option_string_actions
        if unknown := [name for name in names if not any(each.startswith(name) for each in known)]:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return super().parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        refuse(self, message)


def refuse(parser: ArgumentParser, message: str, file: str = "") -> NoReturn:
    """End with a line for each problem that a parser's message tells; file: put before each that does not name it."""
    for problem in problems(message, parser):
        say(f"error: {file}: {problem}" if file and file not in problem else f"error: {problem}", error=True)
    raise SystemExit(2)


def refused(error: BaseException, said: object = None) -> int:
    """Tell why a command could not do what was asked of it; its exit status. Raises the error where tracebacks are
    asked for. said: in the place of the error's own words."""
    if tracebacks_shown():
        raise error
    not_there = error.filename if isinstance(error, FileNotFoundError) else None
    told = str(said or (no_file(not_there) if not_there else error))
    lines = told.splitlines() if isinstance(error, FileNotFoundError) else [told]  # a line for each that is missing
    say(*(f"error: {line}" for line in lines), error=True)
    return 2
