"""Typed access to the entries of annotation files: the caller says what a value must be, an error says what it is.

JSON does not fix types: an id may be a word, a text a number, a list an object. Every reader takes its values from an
`Entry`, so that an error names the file, the entry, the key and the value.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lit_blip2.contents import LONGEST_NAME, MOST_SHOWN, DataError, once_each, parsed_json, read_text, shown
from lit_blip2.data.annotations.ids import ID_SPACE, Name, image_number

MISSING = "missing: "  # begins the line about a missing file
_FRACTION = r"[-+][0-9.]+|[0-9]*\.[0-9]*"  # a text like this is no id; 54e91 is one, of OpenImages
_NOTHING = ("None", "null", "nan")  # missing values in a printed list
_ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|""" + "|".join(_NOTHING), re.DOTALL)
_PRINTED = rf"(?:np\.str_\((?:{_ITEM.pattern})\)|{_ITEM.pattern})"
_LIST = re.compile(
    rf"\[\s*(?:{_PRINTED}(?:[\s,]+{_PRINTED})*)?[\s,]*\]|\(\s*{_PRINTED}\s*,(?:[\s,]*{_PRINTED})*[\s,]*\)"
    rf"|\{{\s*{_PRINTED}(?:\s*,\s*{_PRINTED})*\s*\}}",
    re.DOTALL,
)
_NEEDED: Any = object()  # the default of a value that must be there


class Entry:
    """One object of an annotation file, and its place there, such as "entry 3 of annotations".

    Every getter takes a key and, if the value may be absent, a default. null: what to return for null, which otherwise
    counts as absent. All raise DataError that names file, place, key and value.
    """

    __slots__ = ("path", "place", "values")

    def __init__(self, values: Any, path: str | Path, place: tuple[str, ...] | tuple[str, str, int] = ()):
        self.values, self.path, self.place = values, path, place
        if not isinstance(values, dict):
            raise self.error(f"must be an object with keys, and is {shown(values)}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, words: str) -> DataError:
        """A DataError about this entry."""
        return DataError(": ".join([str(self.path), *filter(None, [_said(self.place)]), words]))

    def text(self, key: str, default: Any = _NEEDED, null: Any = _NEEDED) -> str:
        """A text, perhaps an empty one."""
        value = self._value(key, default, null)
        return value if value is default or value is null else self._checked_text(key, value)

    def texts(self, key: str, default: Any = _NEEDED) -> list[str]:
        """One text, a list of texts, or a list printed into a table's cell (`listed_texts`). Null in a list is an empty
        text; null alone is the default or, without one, an empty text."""
        value = self._value(key, default, [""] if default is _NEEDED else default)
        if value is default:
            return value
        return ["" if each is None else self._checked_text(key, each) for each in _listed(value)]

    def file(self, key: str) -> str:
        """A file's name."""
        if not (name := self.text(key)).strip() or "\0" in name:
            raise self.error(f"{key} is {name!r}, and must name a file")
        if max(len(part.encode()) for part in name.split("/")) > LONGEST_NAME:
            raise self.error(f"{key} is {name[:MOST_SHOWN]!r}..., longer than the {LONGEST_NAME} bytes of a name")
        return name

    def number(self, key: str, default: Any = _NEEDED) -> int:
        """A whole number of 64 bits, written as 7, "7" or 7.0."""
        value = self._value(key, default, _NEEDED)
        return value if value is default else self._checked_number(key, value)

    def name(self, key: str) -> Name:
        """An id: a whole number or an unchanged text, which may be a word but not a fraction."""
        value = self._value(key, _NEEDED, _NEEDED)
        if isinstance(value, str) and value.strip() and not re.fullmatch(_FRACTION, value):
            return self._checked_text(key, value)
        return self._checked_number(key, value)

    def image_id(self, key: str = "image_id") -> int:
        """The number of an image, in 0..ID_SPACE - 1."""
        if not 0 <= (number := image_number(self.name(key))) < ID_SPACE:
            raise self.error(f"image id {number} does not lie in 0..{ID_SPACE - 1}")
        return number

    def flag(self, key: str) -> bool:
        """A boolean, False if absent. The text "false" is refused."""
        if (value := self._value(key, False, False)) not in (True, False):
            raise self.error(f"{key} must be true or false, and is {shown(value)}")
        return bool(value)

    def entry(self, key: str, default: Any = _NEEDED) -> "Entry":
        """The object under a key."""
        return Entry(self._value(key, default, _NEEDED), self.path, (*self.place, key))

    def entries(self, key: str, default: Any = _NEEDED) -> list["Entry"]:
        """The list of objects under a key."""
        values = self._value(key, default, _NEEDED)
        if not isinstance(values, list):
            raise self.error(f"{key} must be a list, and is {shown(values)}")
        return [Entry(each, self.path, (*self.place, key, number)) for number, each in enumerate(values, 1)]

    def items(self) -> Iterator[tuple[str, "Entry"]]:
        """Every key with the object under it."""
        return ((key, Entry(value, self.path, (*self.place, key))) for key, value in self.values.items())

    def _value(self, key: str, default: Any, null: Any) -> Any:
        value = self.values.get(key, _NEEDED)
        if value is None and null is not _NEEDED:
            return null
        if value is None or value is _NEEDED:
            if default is not _NEEDED:
                return default
            what = "is null" if value is None else f"is not there: its keys are {', '.join(sorted(self.values))}"
            raise self.error(f"{key} {what}")
        return value

    def _checked_text(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(f"{key} must be a text, and is {shown(value)}")
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can hold
            raise self.error(f"{key} {value[:MOST_SHOWN]!r} is no text in UTF-8") from error
        return value

    def _checked_number(self, key: str, value: Any) -> int:
        number = _whole(value)
        if number is None or not -(2**63) <= number < 2**63:
            raise self.error(f"{key} must be a whole number of 64 bits, and is {shown(value)}")
        return number


def read_json(path: str | Path) -> Any:
    """Read a JSON file, with or without a byte order mark. JSON lines become a list.

    Raises FileNotFoundError, or DataError naming the file if it is not JSON or has two values under one key.
    """
    text = read_text(path)
    try:
        return parsed_json(text, str(path), object_pairs_hook=once_each)
    except DataError as error:
        lines = text.split("\n")
        if "Extra data" not in str(error) or not _is_object(lines[0]):
            raise
        return [entry.values for entry in _parsed_lines(lines, path)]


def read_lines(path: str | Path) -> list[Entry]:
    """The objects of a file of JSON lines; blank lines are skipped. Raises as `read_json`."""
    return _parsed_lines(read_text(path).split("\n"), path)


def listed_entries(values: Any, path: str | Path) -> list[Entry]:
    """The objects of a file that must be a list of them."""
    if not isinstance(values, list):
        raise DataError(f"{path}: must be a list, and is {shown(values)}")
    return [Entry(each, path, ("", number)) for number, each in enumerate(values, 1)]


@contextmanager
def noting(faults: list[str] | None, files: Iterable[Path | None] = ()) -> Iterator[None]:
    """Append errors about files to `faults`, a line each, instead of raising them. Without a list they are raised.

    files: all files that the block reads. The block ends at the first faulty one; the others are then checked only for
    whether they exist and hold JSON.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if faults is None:
            raise
        said = f"{MISSING}{error.filename}" if isinstance(error, FileNotFoundError) and error.filename else str(error)
        faults.append(said)
        for file in files:
            if file is not None and str(file) not in said and (not file.exists() or file.suffix == ".json"):
                with noting(faults):
                    read_json(file)


def _parsed_lines(lines: list[str], path: str | Path) -> list[Entry]:
    made = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            made.append(Entry(_object(line, path, number), path, ("line", number)))
    return made


def _object(line: str, path: str | Path, number: int) -> Any:
    return parsed_json(line, f"{path}: line {number}", object_pairs_hook=once_each)


def _whole(value: Any) -> int | None:
    """The whole number that a value stands for, or None."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?[0-9]{1,19}", value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None  # above, floats skip numbers
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_object(line: str) -> bool:
    try:
        return isinstance(parsed_json(line, ""), dict)
    except DataError:
        return False


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else listed_texts(value) if isinstance(value, str) else [value]


def listed_texts(text: str) -> list[str | None]:
    """The texts of a printed list, tuple or set, as written by JSON, Python (pandas' to_csv) or NumPy (without
    commas). Any other text is returned alone in a list."""
    if not _LIST.fullmatch(stripped := text.strip()):
        return [text]
    try:
        return json.loads(stripped)
    except ValueError:  # printed by Python, mostly in single quotes
        with suppress(ValueError, SyntaxError):  # an invalid escape: it is a plain text
            return [None if each in _NOTHING else ast.literal_eval(each) for each in _ITEM.findall(stripped)]
    return [text]


def _said(place: tuple) -> str:
    """("annotations", 3, "answers", 1) -> entry 1 of answers of entry 3 of annotations."""
    words, rest = [], list(place)
    while rest:
        part = rest.pop(0)
        if rest and isinstance(rest[0], int):
            number = rest.pop(0)
            part = f"line {number}" if part == "line" else f"entry {number}" + (f" of {part}" if part else "")
        words.append(part)
    return " of ".join(reversed(words))
