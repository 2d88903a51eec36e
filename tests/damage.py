"""Files that are right, damaged in every way that disks, networks and strangers know: what each reader makes of them.

A `Reader` says which files are right and how they are read. `attempt` damages one of them, by a number from which all
follows, and says what came of it.
"""

import random
import re
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lit_blip2.contents import DataError

LONGEST = 1.0  # seconds of a processor; most take a few thousandths
DEEP = 100_000
WORDS = [b"null", b"true", b"-1", b"1e999", b"NaN", b'""', b"[]", b"{}", b"99999999999999999999", b"0.5", b'"\\ud800"']
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?|\b(?:true|false|null)\b')


class Reader(NamedTuple):
    """files: name -> bytes, all that is read. read: folder -> what was read, in plain values that compare. exact: the
    files know their own sizes and checksums, so that no other reading than the right one may come. damaged: names of
    those that are damaged, by default all."""

    name: str
    files: Mapping[str, bytes]
    read: Callable[[Path], Any]
    exact: bool = False
    damaged: tuple[str, ...] = ()


class Came(NamedTuple):
    """What came of a damaged file. wrong: why that may not be, empty where it may. place: where an error was raised."""

    what: str
    wrong: str = ""
    place: str = ""


def attempt(reader: Reader, right: Any, seed: int, folder: Path) -> Came:
    """Damage one of a reader's files and read. right: what the undamaged files say."""
    rng = random.Random(seed)
    name = rng.choice(sorted(reader.damaged or reader.files))
    way = rng.choice([*WAYS])
    for other, content in reader.files.items():
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).write_bytes(WAYS[way](content, rng) if other == name else content)
    came, began = Came(f"{name}, {way}"), time.process_time()
    try:
        if reader.read(folder) != right and reader.exact:
            came = came._replace(wrong="something else was read, and nobody told")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {place.filename}:{place.lineno}"
        came = came._replace(wrong=_unlike_a_refusal(error, folder), place=where)
    took = time.process_time() - began
    return came._replace(wrong=f"it took {took:.1f} s") if took > LONGEST else came


def _unlike_a_refusal(error: Exception, folder: Path) -> str:
    """What keeps an error from being a documented one: its class, or no file in it."""
    said = str(error)
    if not isinstance(error, DataError | OSError):
        return f"{type(error).__name__}: {said[:200]}"
    if str(folder) not in said and not any(file.name in said for file in folder.rglob("*") if file.is_file()):
        return f"names no file: {said[:200]}"
    return f"raw control characters: {said!r}" if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said) else ""


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _flipped(content: bytes, rng: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 8])):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def _other_value(content: bytes, rng: random.Random) -> bytes:
    """A number, a text or a null in the place of another."""
    places = list(TOKEN.finditer(content))
    if not places:
        return _flipped(content, rng)
    place = rng.choice(places)
    return content[: place.start()] + rng.choice([*WORDS, rng.choice(places)[0]]) + content[place.end() :]


def _without_a_part(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + content[end:]


def _zeros_inside(content: bytes, rng: random.Random) -> bytes:
    """As after a crash of a machine."""
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + bytes(end - begin) + content[end:]


def _a_part_twice(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[begin:]


def _nested(content: bytes, rng: random.Random) -> bytes:
    """A value, or the whole, in the place of which brackets stand within brackets."""
    deep = rng.choice([b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP])
    places = [place for place in TOKEN.finditer(content)][1::2]
    if not places or rng.random() < 0.3:
        return deep
    place = rng.choice(places)
    return content[: place.start()] + deep + content[place.end() :]


def _no_text(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice([b"\x00", b"\xff\xfe", b"\x1b[2J", b"\xed\xa0\x80"]) + content[place:]


def _another_kind(content: bytes, rng: random.Random) -> bytes:
    kinds = [b"", b"null", b"[]", b"{}", b'"a"', b"7", b"[1]", b"[{}]", b'{"a": {}}', b"PK\x03\x04", rng.randbytes(64)]
    return rng.choice(kinds)


WAYS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": _cut,
    "bits flipped": _flipped,
    "another value": _other_value,
    "a part missing": _without_a_part,
    "zeros inside": _zeros_inside,
    "a part twice": _a_part_twice,
    "nested": _nested,
    "no text": _no_text,
    "another kind of file": _another_kind,
}
