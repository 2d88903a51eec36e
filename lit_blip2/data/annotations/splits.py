"""Selects the rows of a split from a file whose rows name their splits."""

import warnings
from collections import Counter
from collections.abc import Sequence

from lit_blip2.contents import MOST_SHOWN, DataError
from lit_blip2.data.annotations.entries import Entry

NAMES = {
    "train": ("train", "restval", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test",),
}
# Keys of a row's split, in any case and with blanks around. The first key whose values name splits counts.
SURE = ("split", "set_name")  # their values need only begin like a split's name, as train2014 does
KEYS = (
    *SURE, "set", "subset", "partition", "phase", "fold", "is_train", "is_val", "is_test", "train", "val",
    "test",
)  # fmt: skip
_ALL = {name for names in NAMES.values() for name in names}
_NONE = "without a split"
_MOST_NAMED = 8


def of_splits(rows: list[Entry], splits: Sequence[str]) -> list[Entry]:
    """The rows of the given splits (train, val, test). A warning counts the rows left out, by split.

    All rows are kept if no two of them name different splits, or if no name looks like a split.

    Raises DataError if the file holds several splits but none of the given ones. Also if some rows name one split and
    the rest none: the rest may belong to it or not.
    """
    key, own = _named_in(rows)
    counts = Counter(own)
    said = _said(counts)
    if len(counts) == 2 and _NONE in counts and _ALL & counts.keys():
        raise DataError(
            f"{rows[0].path}: some rows name their split and some do not ({said}): name it in all, or in none"
        )
    if len(counts.keys() - {_NONE}) < 2:
        return rows
    meant = key in SURE and any(name.startswith(("train", "val", "test", "dev", "restval")) for name in counts)
    if not meant and not _ALL & counts.keys():
        warnings.warn(f"{rows[0].path}: its values of {key} name no split, all rows are read: {said}", stacklevel=1)
        return rows
    wanted = {name for split in splits for name in NAMES[split]}
    if not wanted & counts.keys():
        named = " or ".join(map(repr, splits))
        raise DataError(f"{rows[0].path}: no row of split {named}, {key} is: {said}: write train, val or test")
    out = Counter({name: count for name, count in counts.items() if name not in wanted})
    if out:
        words = f"{out.total()} of {len(rows)} rows are left out, not of {' or '.join(splits)}: {_said(out)}"
        warnings.warn(f"{rows[0].path}: {words}", stacklevel=1)
    return [row for row, name in zip(rows, own, strict=True) if name in wanted]


def _named_in(rows: list[Entry]) -> tuple[str, list[str]]:
    """The key of the rows' splits, and the split of each row. Both are empty if no row has one of KEYS, and no other
    column holds splits alone."""
    found = set().union(*(row.values for row in rows))
    spelt = {key: [name for name in found if name.strip().lower() == key] for key in KEYS}
    spelt |= {name: [name] for name in sorted(found) if name not in spelt and _names_splits(rows, name)}
    named = {key: [_split_of(row, names) for row in rows] for key, names in spelt.items() if names}
    several = [key for key, own in named.items() if len(set(own)) > 1]
    key = next((key for key, own in named.items() if _ALL.intersection(own)), next(iter(several), ""))
    return key, named.get(key, [])


def _names_splits(rows: Sequence[Entry], key: str) -> bool:
    return all(isinstance(value := row.values.get(key), str) and value.strip().lower() in _ALL for row in rows)


def _split_of(row: Entry, keys: Sequence[str]) -> str:
    """The name of a row's split, in lower case."""
    values = (row.values.get(key) for key in keys)
    return next((str(each).strip().lower() for each in values if each not in (None, "")), _NONE) or _NONE


def _said(counts: Counter[str]) -> str:
    shown = [f"{name[:MOST_SHOWN]} {count}" for name, count in counts.most_common(_MOST_NAMED)]
    return ", ".join(shown) + (", ..." if len(counts) > _MOST_NAMED else "")
