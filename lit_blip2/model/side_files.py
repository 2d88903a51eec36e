"""Checks that the files of a Hugging Face folder name only other files of that folder.

A folder may come from anybody. Its files may be links: the user's own, or those of huggingface_hub, whose revision
folders hold links to ../../blobs. But a name that is written in a file may not lead out of the folder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_blip2.contents import DataError, check_no_pointer, check_regular, path_inside, read_object

CONFIG, CONFIGS = "config.json", "configuration_files"
INDICES = "*.index.json"  # of weights in shards: {"weight_map": {weight: file}}
# JSON file -> its fields that name files which transformers reads.
NAMING = {
    CONFIG: ("transformers_weights", CONFIGS),
    "tokenizer_config.json": ("fast_tokenizer_files",),
}
WAY_OUT = "a file of this folder is meant; put it there, and name it without its folder"


def check_names(folder: Path) -> None:
    """Raises DataError for the first name in a file that leads out of the folder, for a special file such as a FIFO,
    and for JSON that Git LFS has not fetched: transformers ignores a generation_config.json that it cannot read."""
    for file in sorted(folder.iterdir()):
        (check_no_pointer if file.suffix == ".json" else check_regular)(file)
    for file, path in _named(folder):
        path_inside(path, file, WAY_OUT)


def other_configs(folder: Path) -> list[str]:
    """The files that transformers may read in place of config.json, depending on its version."""
    named = _listed(_fields(folder / CONFIG).get(CONFIGS))
    return [path for path in named if isinstance(path, str) and (folder / path).is_file()]


def _named(folder: Path) -> Iterator[tuple[Path, Any]]:
    """(file, a path that it names)."""
    for index in sorted(folder.glob(INDICES)):
        placed = _fields(index).get("weight_map")
        paths = dict.fromkeys(map(str, placed.values())) if isinstance(placed, dict) else ()
        yield from ((index, path) for path in paths)
    for name, keys in NAMING.items():
        fields = _fields(folder / name)
        yield from ((folder / name, path) for key in keys for path in _listed(fields.get(key)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _fields(file: Path) -> dict[str, Any]:
    """The fields of a JSON file; empty if it is missing or damaged (its actual reader refuses a damaged one)."""
    try:
        return read_object(file) if file.is_file() else {}
    except DataError:
        return {}
