"""Ids of images and questions. Tables, features and metrics use numbers, even if the ids of a file are words.

A word's number depends on the word alone, so it is the same in every file. The file's own spelling is kept beside the
number (`written`), because servers want it back unchanged: "05515938" with its zero.
"""

import hashlib
import json
import re
from collections.abc import Sequence

from lit_blip2.data.annotations.strings import Strings

ID_SPACE = 1 << 44  # image ids are below this; source i of a mixture adds i times this to its own
_QUESTIONS = 1 << 63
Name = int | str  # an id as it stands in a file


def image_number(name: Name) -> int:
    """42 and "42" -> 42; another word gets a number in the upper half of 0..ID_SPACE - 1."""
    return _number(name, ID_SPACE)


def question_number(name: Name) -> int:
    """42 and "42" -> 42; another word gets a number in the upper half of 0..2**63 - 1."""
    return _number(name, _QUESTIONS)


def last_digits(name: str) -> Name:
    """ "coco_42", "COCO_val2014_000000000042" and "img42" -> 42; a word such as "0054c91397f2fe05" stays."""
    found = re.fullmatch(r"(?:.*[^0-9A-Za-z]|[A-Za-z]*)([0-9]+)", name, re.DOTALL)
    return int(found[1]) if found and int(found[1]) < ID_SPACE else name


def written(names: Sequence[Name]) -> Strings | None:
    """The names in JSON; None if all are numbers."""
    return Strings(map(json.dumps, names)) if any(isinstance(name, str) for name in names) else None


def name_of(number: int, written_ids: Strings | None, row: int) -> Name:
    """The id of a row as its file spells it. written_ids: what `written` returned for all rows."""
    return int(number) if written_ids is None else json.loads(written_ids[row])


def _number(name: Name, space: int) -> int:
    if isinstance(name, int):
        return name
    if re.fullmatch(r"[0-9]{1,18}", name) and int(name) < space:
        return int(name)
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return space // 2 + int.from_bytes(digest, "little") % (space // 2)
