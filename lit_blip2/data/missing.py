"""Messages about missing files: how to get them, and what lies where images were looked for."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from lit_blip2.terminal import first_few

MOST_TRIED = 1000  # one of this many first images of a source must exist before a run begins
MOST_NAMED = 4  # entries of a folder that a message names
# Pattern of the end of a path below the data's root -> where the file comes from. The first match counts.
WAYS = {
    r"(captions|binding|questions|answers)_(train|val|test)\.json|features/\w+/features\.json": (
        "The mini-world's files are made by python -m lit_blip2 data make-mini --out {root}"
    ),
    r"features\.json": "Cached features: python -m lit_blip2 data features --config FILE --out FOLDER",
    r"captions_(train|val)2014\.json": "COCO's captions and images: https://cocodataset.org/#download",
    r"(v2_|OpenEnded_|mscoco_).*\.json": "VQA's questions and annotations: https://visualqa.org/download.html",
    r"dataset_(coco|flickr30k)\.json": (
        "Karpathy's splits: https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
    ),
    r"index/[^/]*|shards\.jsonl": "An index of tar shards: python -m lit_blip2 data index FOLDER",
}
UNKNOWN = "The page of the data set has it; docs/data.md says what each kind of file holds"


class MissingFilesError(FileNotFoundError):
    """Files are missing. The message has a line for each way to get some of them. paths: all of these files."""

    def __init__(self, paths: Sequence[Path], root: Path, how_to_get: str | None):
        """how_to_get: the way to get all of them; None: `way_to` tells it for each file."""
        by_way: dict[str, list[str]] = {}
        for path in dict.fromkeys(paths):
            by_way.setdefault(way_to(path, root, how_to_get), []).append(str(path))
        super().__init__("\n".join(f"missing: {', '.join(files)}. {way}" for way, files in by_way.items()))
        self.paths = list(dict.fromkeys(map(str, paths)))


def way_to(path: Path, root: Path, how_to_get: str | None = None) -> str:
    """How a file of a data set is had. root: the data's. how_to_get: the way to get all of its files, if there is one;
    that the folder itself is missing is then told first."""
    if how_to_get:
        return how_to_get if root.is_dir() else f"There is no folder {root}. {how_to_get}"
    below = path.relative_to(root) if path.is_relative_to(root) else path
    ways = [way for pattern, way in WAYS.items() if re.search(rf"(^|/)({pattern})$", below.as_posix())]
    return ways[0].format(root=root) if ways else UNKNOWN


def check_some_there(paths: Iterable[Path], folder: Path, source: str) -> None:
    """Raises FileNotFoundError if none of the first images of a source exists, and says what its folder holds. So a
    wrong folder shows before the run. In training, a single missing image is replaced and counted."""
    tried = list(islice(paths, MOST_TRIED))
    if tried and not any(path.exists() for path in tried):
        raise FileNotFoundError(all_missing(folder, tried[0], source, len(tried)))


def all_missing(folder: Path, first: Path, source: str, count: int) -> str:
    """The message if every image of a source is missing. folder: where they should be. first: the first of them."""
    other = f" (there is {there})" if (there := namesake(first)) else ""
    none = f"none of the images of {source} is" if count > 1 else f"the image of {source} is not"
    return f"missing: {first}{other}: {none} in {folder} (data.root and data.images), {_holding(folder)}"


def namesake(path: Path) -> str:
    """The name of a file beside a missing one that differs only in capitals or in the encoding of its accents, as
    names from another system do; empty if there is none."""
    return _names_in(path.parent).get(_folded(path.name), "")


def _holding(folder: Path) -> str:
    """What a folder holds; for a missing folder, what the nearest existing one above it holds."""
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
