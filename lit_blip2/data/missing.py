"""Why images that a file names are not where they are looked for: in words, with what is there instead."""

import os
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import islice
from pathlib import Path

from lit_blip2.terminal import first_few

MOST_TRIED = 1000  # images of a source of which one must be there before a run begins
MOST_NAMED = 4  # of what a folder holds


def check_some_there(paths: Iterable[Path], folder: Path, source: str) -> None:
    """Raises FileNotFoundError where none of the first images of a source is there, which says what is in its folder: a
    wrong folder shows before the run. One that is missing alone is replaced in training, and counted."""
    tried = list(islice(paths, MOST_TRIED))
    if tried and not any(path.exists() for path in tried):
        raise FileNotFoundError(all_missing(folder, tried[0], source, len(tried)))


def all_missing(folder: Path, first: Path, source: str, count: int) -> str:
    """What to say where every image of a source is missing. folder: where they should lie. first: one of them."""
    other = f" (there is {there})" if (there := namesake(first)) else ""
    none = f"none of the images of {source} is" if count > 1 else f"the image of {source} is not"
    return f"missing: {first}{other}: {none} in {folder} (data.root and data.images), {_holding(folder)}"


def namesake(path: Path) -> str:
    """The name of a file beside a missing one that differs from it in capitals or in the form of its accents alone, as
    names do that come from another system; empty where there is none."""
    return _names_in(path.parent).get(_folded(path.name), "")


def _holding(folder: Path) -> str:
    """What a folder holds; of one that is not there, the nearest above it that is."""
    if folder.is_dir():
        return f"which holds {_listing(folder)}"
    above = next(each for each in folder.absolute().parents if each.is_dir())
    return f"which is not there; {above} holds {_listing(above)}"


def _listing(folder: Path) -> str:
    with os.scandir(folder) as entries:
        names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in entries)
    return first_few(names, MOST_NAMED) or "nothing"


@cache
def _names_in(folder: Path) -> dict[str, str]:
    return {_folded(name): name for name in os.listdir(folder)} if folder.is_dir() else {}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
