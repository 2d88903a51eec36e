"""Finds the file that a path in a YAML means, and file names that are free."""

import itertools
from collections.abc import Callable
from pathlib import Path

PACKAGE_PARENT = Path(__file__).resolve().parent.parent

# Ends an advice that names an option of fit, validate and test. Other commands need the path that a checkpoint keeps.
OR_PUT_BACK = ", or put it at that path: ask, caption and export, which have no such option, look for it there."


def find(path: str | Path, what: str, way_out: str) -> Path:
    """An existing file or folder: relative to the working folder, else beside the package (`lit_blip2/mini/...`).

    Raises FileNotFoundError that says what is missing, where it was looked for and how to get it.
    """
    for candidate in (Path(path).expanduser(), PACKAGE_PARENT / path):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{what}: no file or folder {str(path)!r}. {way_out}")


def run_all(*steps: Callable[[], object]) -> None:
    """Run every step; then raise one FileNotFoundError with all that was missing, if anything was."""
    missing = []
    for step in steps:
        try:
            step()
        except FileNotFoundError as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("\n".join(dict.fromkeys(missing)))


def free_name(file: Path) -> Path:
    """The file or, if it exists already, the first of file-v1, file-v2, ... that does not."""
    names = itertools.chain([file], (file.with_stem(f"{file.stem}-v{number}") for number in itertools.count(1)))
    return next(name for name in names if not name.exists())
