"""Reads files from elsewhere without running anything in them, and raises one kind of error if they are wrong.

JSON, YAML, NumPy's arrays and safetensors each fail in many ways if a file is cut, damaged or made to harm. Here every
failure becomes a DataError, and so does a name that leads out of its folder.
"""

import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lit_blip2.terminal import one_line, printable

MOST_SHOWN = 60  # characters of a wrong value in a message
MOST_FROM_ALIASES = 100_000  # values that the aliases of a YAML file may stand for
DEEPEST = 100  # nested brackets in YAML
INTEGER = "tag:yaml.org,2002:int"
LONGEST_NUMBER = 1000  # characters of a whole number of YAML
LONGEST_NAME = 255  # bytes of a file's name, as file systems have it
COPY_AGAIN = "get it again"
POINTER = b"version https://git-lfs"  # begins a pointer of Git LFS
IS_POINTER = "is a pointer of Git LFS and not the file itself: get it with git lfs pull"
_NO_FILES = {stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


class DataError(ValueError):
    """A file from elsewhere is wrong. The message names the file, the place in it, what is wrong there, and the way
    out; control characters are escaped."""

    def __init__(self, message: str):
        super().__init__(printable(message))

    @classmethod
    def of(cls, file: str | Path, wrong: object, way_out: str = "") -> "DataError":
        """wrong: the place in the file, and what is wrong there."""
        return cls(f"{file}: {one_line(wrong)}" + (f": {way_out}" if way_out else ""))


@contextmanager
def reading(file: str | Path, what: str, way_out: str = COPY_AGAIN) -> Iterator[None]:
    """Turn the errors of a library that reads a file into DataError, except if the file is missing or may not be
    opened. what: the kind of file."""
    check_no_pointer(file)
    try:
        yield
    except (DataError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # damage raises many kinds
        reason = one_line(f"{type(error).__name__} {error}", 200)
        raise DataError(f"{file} is damaged or cut, or no {what} ({reason}): {way_out}") from error


def texts_in(content: Mapping[str, Any], name: str, file: Path) -> list[str]:
    """The list of texts that a file's object has under a name; empty if it has none. Raises DataError."""
    found = content.get(name, [])
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise DataError(f"{file}: {name} is {shown(found)}, where a list of texts is wanted")
    return list(found)


def check_regular(file: str | Path) -> None:
    """Raises DataError for a FIFO, a device or a socket in the place of a file: its reader may wait for ever. A missing
    file or a folder passes: opening it raises an error of its own."""
    try:
        mode = Path(file).stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = next((name for is_one, name in _NO_FILES.items() if is_one(mode)), "something else")
        raise DataError(f"{file} is no regular file but {kind}, which may have no end: put a file in its place")


def is_pointer(file: Path) -> bool:
    """Whether a file is only a pointer of Git LFS, as it is before `git lfs pull`."""
    with file.open("rb") as opened:
        return opened.read(len(POINTER)) == POINTER


def check_no_pointer(file: str | Path) -> None:
    """Raises DataError for a pointer of Git LFS, and as `check_regular`."""
    check_regular(file)
    if Path(file).is_file() and is_pointer(Path(file)):
        raise DataError(f"{file} {IS_POINTER}")


def check_file(file: str | Path) -> None:
    """Raises DataError for a folder in the place of a file, and as `check_no_pointer`."""
    check_no_pointer(file)
    if Path(file).is_dir():
        raise DataError(f"{file} is a folder: give the path of a file in it")


def read_text(file: str | Path) -> str:
    """A file's text, without a byte order mark. Raises OSError, or DataError if it is not UTF-8 or not a file."""
    check_file(file)
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} cannot be read: {error}. Save it as UTF-8") from error


def read_object(file: str | Path, **hooks: Callable) -> dict[str, Any]:
    """The object in a JSON file. hooks: of json.loads. Raises OSError, or DataError."""
    content = parsed_json(read_text(file), str(file), **hooks)
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no JSON object but {shown(content)}: {COPY_AGAIN}")
    return content


def parsed_json(text: str | bytes, where: str, **hooks: Callable) -> Any:
    """Parse JSON. where: its file, and its place there. hooks: of json.loads. Raises DataError."""
    try:
        return json.loads(text, **hooks)
    except (ValueError, TypeError, RecursionError) as error:  # a hook may raise, too
        raise DataError(f"{where} is not JSON: {error}") from error


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for json.loads. Raises ValueError for a key with two different values: JSON would keep the
    last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise ValueError(f"key {key!r} stands twice in one object, with {shown(value)} and {shown(made[key])}")
    return made


def shown(value: Any) -> str:
    """A value of JSON for a message, with its kind, cut to MOST_SHOWN characters: "a number, 5"; null for None."""
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=True, default=str)
    text = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
    return f"{_KINDS.get(type(value), type(value).__name__)}, {text}"


class Bounded:
    """A base class, put before one of PyYAML's loaders: it refuses values that a file of that size could not hold."""

    def get_single_node(self) -> yaml.Node | None:
        """The whole document. Raises YAMLError if its aliases expand it to more than a file could hold."""
        node = super().get_single_node()
        if node is not None and _nodes(node, {}) > MOST_FROM_ALIASES + node.end_mark.index:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_FROM_ALIASES:,} values")
        return node

    def construct_yaml_int(self, node: yaml.Node) -> int:
        """A whole number. Raises YAMLError for a long one, which may take long to read: YAML also has base 60."""
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"a number of {len(node.value):,} characters, and {LONGEST_NUMBER} are the most")
        return super().construct_yaml_int(node)


class Loader(Bounded, yaml.SafeLoader):
    """Loads YAML of plain values, with limits for nesting and for aliases."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        """Read an opening bracket. Raises YAMLError if too many are open."""
        if self.flow_level >= DEEPEST:
            raise yaml.YAMLError("its values are nested too deep")
        super().fetch_flow_collection_start(token)


Loader.add_constructor(INTEGER, Loader.construct_yaml_int)


def _nodes(node: yaml.Node, known: dict[int, int]) -> float:
    """Number of values in a node, counted again at each alias. An alias inside what it names makes it infinite."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")  # while it is counted
        inner = (each for one in node.value for each in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] = 1 + sum(_nodes(each, known) for each in inner)
    return known[id(node)]


def parsed_yaml(text: str, source: str | Path, loader: type[Loader] = Loader) -> Any:
    """Parse YAML. source: its file, for errors. Raises DataError."""
    try:
        return yaml.load(text, loader)
    except RecursionError as error:
        raise DataError(f"{source} is not YAML: its values are nested too deep") from error
    except Exception as error:  # a date such as 2001-99-99 or a number such as !!int x raises ValueError and others
        raise DataError(f"{source} is not YAML: {one_line(error)}") from error


def name_inside(name: Any, where: str | Path, way_out: str) -> str:
    """The name itself, of a file in a folder. where: what names it. Raises DataError for a name that leads elsewhere
    (other folders, `..`, an absolute path), is empty, holds a control character, or is too long."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or printable(name) != name:
        raise DataError(f"{where} names {name!r}: {way_out}")
    if len(name.encode()) > LONGEST_NAME:
        raise DataError(f"{where} names {name[:MOST_SHOWN]!r}..., longer than {LONGEST_NAME} bytes: {way_out}")
    return name


def path_inside(path: Any, where: str | Path, way_out: str) -> str:
    """The path itself, of a file below a folder. where: what names it. Raises DataError for a path that leads out of
    the folder: an absolute one, or one with `..` in it."""
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if not parts or parts[0].startswith("/") or ".." in parts or "\0" in path:
        raise DataError(f"{where} names {path!r}: {way_out}")
    return path
