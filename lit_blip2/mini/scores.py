"""How true a caption is of its scene: read back into objects by the grammar's words and matched with the scene graph.

A caption is cut at commas and "and". Each clause describes one object, "a [size] colour shape [at place]"; the first
may relate two, "a red ring above a blue star". A clause that says neither, an empty one too, describes an object that
no scene has: what cannot be read is wrong, never dropped.

An object is described rightly when a scene object has everything said of it; each described object takes one of the
scene's, and each of the scene's is taken once (two mentions of one red ring are one right, one wrong). Then of a
caption with D described objects, R of them right at best, and a scene of S objects:

    precision  R / D
    recall     R / S
    exact      1 if R = D = S and the relation, if one is said, holds; else 0

A caption may keep silent about sizes and places, as the grammar's own do: silence costs nothing, a wrong word does.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from lit_blip2.mini.extras import untold
from lit_blip2.mini.grammar import RELATIONS, UNSAID, Caption, Mention
from lit_blip2.mini.styles import without_boilerplate
from lit_blip2.mini.truth import is_true
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene


def _any(words: Sequence[str]) -> str:
    return "|".join(words)


_PLACE = rf"(?: at (?P<place>{_any(PLACES)}))?"
_SIZE, _COLOUR, _SHAPE = (
    rf"(?P<{name}>{_any(words)})" for name, words in (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES))
)
_PLAIN = re.compile(rf"an? (?:{_SIZE} )?{_COLOUR} {_SHAPE}{_PLACE}")
_STYLED = (_PLAIN, re.compile(rf"(?:{_SIZE} )?{_COLOUR} {_SHAPE}{_PLACE}"),
           re.compile(rf"{_SHAPE} {_COLOUR}(?: {_SIZE})?{_PLACE}"))  # fmt: skip
_RELATION = re.compile(rf"(.+) ({_any(RELATIONS)}) (.+)")
_CUT = re.compile(r",|\band\b")


class Reading(NamedTuple):
    """What a caption describes: a Mention for each object, None for one that cannot be read.

    relation: index into RELATIONS that is said of mentions 0 and 1, or UNSAID.
    """

    mentions: tuple[Mention | None, ...]
    relation: int


class Score(NamedTuple):
    """Of one caption, each in 0..1."""

    precision: float
    recall: float
    exact: float


def read_caption(text: str, styled: bool = False) -> Reading:
    """Never fails: what cannot be read is None. Case, the spaces between words and a full stop at the end are free.
    styled: a caption may be written in any style of mini/styles.py."""
    text = text.lower().rstrip(" .\n")
    if styled:
        text = without_boilerplate(" ".join(text.replace(",", " , ").split()))
    first, *others = (" ".join(clause.split()) for clause in _CUT.split(text))
    mention = partial(_mention, patterns=_STYLED if styled else (_PLAIN,))
    related = _RELATION.fullmatch(first)
    if related is None:
        return Reading(tuple(map(mention, [first, *others])), UNSAID)
    one, relation, other = related.groups()
    return Reading(tuple(map(mention, [one, other, *others])), RELATIONS.index(relation))


def _mention(clause: str, patterns: Sequence[re.Pattern]) -> Mention | None:
    found = next((match for each in patterns if (match := each.fullmatch(clause))), None)
    if found is None:
        return None
    size, colour, shape, place = found.group("size", "colour", "shape", "place")
    return Mention(
        SHAPES.index(shape),
        COLOURS.index(colour),
        UNSAID if size is None else SIZES.index(size),
        UNSAID if place is None else PLACES.index(place),
    )


def score_caption(text: str, scene: Scene, styled: bool = False) -> Score:
    """Precision, recall and exactness of one caption of `scene`; see the top of the file. styled: see read_caption.

    Objects count, and no small thing beside them (extras.py): where there is one, a caption's opening that tells it is
    left out."""
    if scene.extra is not None:
        text = untold(text.lower())
    mentions, relation = read_caption(text, styled)
    readable = [mention for mention in mentions if mention is not None]
    right = _most_matched(readable, scene.objects)
    complete = right == len(mentions) == len(scene.objects)
    exact = complete and is_true(Caption("", mentions, relation), scene)
    return Score(right / len(mentions), right / len(scene.objects), float(exact))


def _most_matched(mentions: Sequence[Mention], objects: Sequence[Object]) -> int:
    """Size of the largest one-to-one matching of mentions and objects that fit (by augmenting paths)."""
    fits = [
        [all(said in (UNSAID, has) for said, has in zip(mention, o[:4], strict=True)) for o in objects]
        for mention in mentions
    ]
    mention_of: dict[int, int] = {}

    def place(mention: int, tried: set[int]) -> bool:
        for j in range(len(objects)):
            if fits[mention][j] and j not in tried:
                tried.add(j)
                if j not in mention_of or place(mention_of[j], tried):
                    mention_of[j] = mention
                    return True
        return False

    return sum(place(mention, set()) for mention in range(len(mentions)))
