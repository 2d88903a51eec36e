"""Which rows of a file belong to the split that is read, where each row says of which it is."""

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
_NONE = "without a split"
_MOST_NAMED = 8


def of_splits(rows: list[Entry], splits: Sequence[str], key: str = "split") -> list[Entry]:
    """The rows of these splits, of train, val and test. What is left out is counted by its split, and told.

    All rows are taken, as ever, where no two of them name different splits, and where nothing that they name looks
    like one. key: of a row's split, also with capitals or blanks.

    Raises DataError where the file holds several splits and none of these, and where only some rows name the one that
    all of those name: the others may belong to it or not.
    """
    keys = [name for name in set().union(*(row.values for row in rows)) if name.strip().lower() == key]
    if not keys:
        return rows
    own = [_split_of(row, keys) for row in rows]
    counts = Counter(own)
    said = _said(counts)
    if len(counts) == 2 and _NONE in counts and any(name in NAMES[split] for split in NAMES for name in counts):
        raise DataError(
            f"{rows[0].path}: some rows name their split and some do not ({said}): name it in all, or in none"
        )
    if len(counts.keys() - {_NONE}) < 2:
        return rows
    if not any(name.startswith(("train", "val", "test", "dev", "restval")) for name in counts):
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


def _split_of(row: Entry, keys: Sequence[str]) -> str:
    """What a row calls its split, in small letters."""
    values = (row.values.get(key) for key in keys)
    return next((str(each).strip().lower() for each in values if each not in (None, "")), _NONE) or _NONE


def _said(counts: Counter[str]) -> str:
    shown = [f"{name[:MOST_SHOWN]} {count}" for name, count in counts.most_common(_MOST_NAMED)]
    return ", ".join(shown) + (", ..." if len(counts) > _MOST_NAMED else "")
