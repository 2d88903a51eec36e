"""What a step depends on besides its config and the code: the files that its config names."""

import hashlib
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lit_blip2.config import strings
from lit_blip2.contents import read_object
from lit_blip2.links import below
from lit_blip2.runs import CONFIG, WRITES, newest_checkpoint, run_of
from lit_blip2.sources import PACKAGE, digest

BY_SIZE = {".jpg", ".jpeg", ".png", ".webp", ".tar"}  # told apart by name and size: reading 82 GB would take long
LARGEST_READ = 2**30  # bytes
SAMPLE = 2**20  # bytes
LONGEST_PATH = 4096
# Files that identify a section of cached features (lit_blip2.data.features): what made it, its images and their files.
SECTION = ("features.json", "image_ids.npy", "keys.npy")
SPLITS = ("train", "val", "test")


def paths(config: Any) -> list[str]:
    """The files and folders that a resolved config reads, relative to the working folder or beside the package. Of a
    data's `root`, only what is named below it counts, if anything is; reads.py notices what else a class reads."""
    trainer = _without_outputs(config.get("trainer", {}))
    roots = {str(root) for root in _roots(config)}
    named = strings(config | {"trainer": trainer})
    named |= {text.replace("{split}", split) for text in named if "{split}" in text for split in SPLITS}
    beside = {f"{root}/{text}" for text in named if text.startswith("../") for root in roots}  # such as other features
    below = {root: {f"{root}/{text}" for text in named - roots if _is_below(root, text)} for root in roots}
    named = (named - {root for root, found in below.items() if found}).union(beside, *below.values())
    return [text for text in sorted(named) if find(text) is not None]


def _is_below(root: str, text: str) -> bool:
    return text != "" and not text.startswith(("/", "~", ".")) and find(f"{root}/{text}") is not None


def _without_outputs(trainer: Any) -> Any:
    """The trainer's settings without the folders that it, and its callbacks, write into."""
    if isinstance(trainer, dict):
        return {key: _without_outputs(value) for key, value in trainer.items() if key not in (*WRITES, "dirpath")}
    return [_without_outputs(each) for each in trainer] if isinstance(trainer, list) else trainer


def _roots(config: Any) -> Iterator[Any]:
    """Every `root` in a config: of its data, and of each source of a mixture."""
    if isinstance(config, dict):
        yield from (value for key, value in config.items() if key == "root")
    for each in config.values() if isinstance(config, dict) else config if isinstance(config, list) else []:
        yield from _roots(each)


def of_path(text: str, until: float = math.inf) -> str:
    """A digest of a file's contents; for a run, of its newest checkpoint and its config; for another folder, of the
    names and contents of all files below it but hidden ones (see `contents`). Cached features are identified by what
    made them, so that they may be made again. until: files that were written later, in seconds, are left out.
    """
    path = find(text)
    files = [path] if path.is_file() else _of_run(path) or _of_folder(path)
    return digest((str(file.relative_to(path)), contents(file)) for file in files if _is_there(file, until))


def _is_there(file: Path, until: float) -> bool:
    return file.is_file() and file.stat().st_mtime <= until


def _of_folder(folder: Path) -> list[Path]:
    """All files but hidden ones. Of a section of cached features only those that identify it: its numbers differ in
    their last bits between machines, and its marks hold the times of the images."""
    files = [file for file in below(folder) if not file.name.startswith(".")]
    sections = {file.parent for file in files if file.name == SECTION[0]}
    return [file for file in files if file.parent not in sections or file.name in SECTION]


def _of_run(folder: Path) -> list[Path]:
    """What is read of a run, or of an experiment's newest run: its newest checkpoint and its config. Empty for another
    folder."""
    if not any(folder.glob(f"{level}{CONFIG}") for level in ("", "*/")):
        return []
    try:
        checkpoint = newest_checkpoint(folder)
    except (FileNotFoundError, ValueError):
        return []
    return [checkpoint, run_of(checkpoint) / CONFIG]


def find(text: str) -> Path | None:
    """The path that a config's text names, in the working folder or beside the package; None if there is none."""
    if not text or len(text) > LONGEST_PATH:
        return None
    return next((each for each in (Path(text).expanduser(), PACKAGE.parent / text) if each.exists()), None)


def contents(file: Path) -> bytes:
    """What identifies a file's contents: a digest. For images and tars it is the size alone; for cached features what
    made them; for files above LARGEST_READ the size and three samples. A file is read again only if it was written
    again."""
    now = file.stat()
    return _contents(file, now.st_size, now.st_mtime_ns)


@cache
def _contents(file: Path, size: int, written_ns: int) -> bytes:
    if file.name == SECTION[0]:
        return _of_section(file)
    if file.suffix.lower() in BY_SIZE:
        return str(size).encode()
    with file.open("rb") as stream:
        if size <= LARGEST_READ:
            return hashlib.file_digest(stream, "sha256").digest()
        parts = [str(size).encode()]
        for place in (0, size // 2, size - SAMPLE):
            stream.seek(place)
            parts.append(stream.read(SAMPLE))
        return b"".join(parts)


def _of_section(file: Path) -> bytes:
    """The features.json of a section, without the check sums of its other files."""
    told = read_object(file)
    return json.dumps({key: value for key, value in told.items() if key != "crc32"}, sort_keys=True).encode()
