"""What can be said of a scene: captions as specifications, their words, and questions with answers."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene

RELATIONS = ("left of", "right of", "above", "below")
PLURALS = ("circles", "squares", "triangles", "stars", "crosses", "rings")
QUESTION_TYPES = ("colour", "shape", "size", "place", "count", "existence", "relation")
OBJECTS = "how many objects are there ?"
UNSAID = -1
# Two objects without a place, or related without a size, would be true of one image in 25 batches: left out.
KINDS = ("full", "no size", "no place", "plain", "relation")
_KIND_SHARES = {
    1: (1.0, 0.0, 0.0, 0.0, 0.0),
    2: (0.4, 0.3, 0.0, 0.0, 0.3),
    3: (0.3, 0.2, 0.2, 0.15, 0.15),
    4: (0.3, 0.2, 0.2, 0.15, 0.15),
}
_KIND_BOUNDS = {n: np.cumsum(shares) for n, shares in _KIND_SHARES.items()}


class Mention(NamedTuple):
    """What a caption says of one object: indices as in Object, UNSAID where it keeps silent."""

    shape: int
    colour: int
    size: int
    cell: int


class Caption(NamedTuple):
    """A caption's specification. `relation` (index into RELATIONS, or UNSAID) holds of mentions 0 and 1."""

    kind: str
    mentions: tuple[Mention, ...]
    relation: int


class Question(NamedTuple):
    type: str
    text: str
    answer: str


def holds(relation: int, a: Object, b: Object) -> bool:
    """Whether `a` is left of, right of, above or below `b`, by columns and rows of the grid."""
    return (a.column < b.column, a.column > b.column, a.row < b.row, a.row > b.row)[relation]


def draw_caption(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Caption:
    """A caption true of the scene that lists every object in random order; its kind is drawn unless given."""
    n = len(scene.objects)
    if kind is None:
        kind = KINDS[int(np.searchsorted(_KIND_BOUNDS[n], rng.random(), side="right"))]
    objects = [scene.objects[i] for i in rng.permutation(n).tolist()]
    relation = UNSAID
    if kind == "relation":
        true = [r for r in range(len(RELATIONS)) if holds(r, objects[0], objects[1])]
        relation = true[int(rng.integers(len(true)))]
    sizes = kind in ("full", "no place") or (kind == "relation" and n == 2)
    places = kind in ("full", "no size")
    mentions = tuple(
        Mention(o.shape, o.colour, o.size if sizes else UNSAID, o.cell if places else UNSAID) for o in objects
    )
    return Caption(kind, mentions, relation)


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def mention_words(mention: Mention) -> list[str]:
    """What is said of an object without its place: size, if it is said, colour, shape."""
    return [*([] if mention.size == UNSAID else [SIZES[mention.size]]), COLOURS[mention.colour], SHAPES[mention.shape]]


def _plain(mention: Mention) -> str:
    return with_article(" ".join(mention_words(mention)))


def caption_text(caption: Caption, named: Callable[[Mention], str] = _plain) -> str:
    """The caption in lower-case words joined by single spaces; commas are words of their own. named: how an object is
    written without its place."""
    places = ["" if m.cell == UNSAID else f" at {PLACES[m.cell]}" for m in caption.mentions]
    parts = [named(m) + place for m, place in zip(caption.mentions, places)]
    if caption.relation != UNSAID:
        parts[:2] = [f"{parts[0]} {RELATIONS[caption.relation]} {parts[1]}"]
    return listed(parts)


def listed(parts: list[str]) -> str:
    """One, `a and b`, or `a , b and c`."""
    return parts[0] if len(parts) == 1 else f"{' , '.join(parts[:-1])} and {parts[-1]}"


def _pick(items: list, rng: np.random.Generator):
    return items[int(rng.integers(len(items)))]


def _unique(keys: list) -> list[int]:
    return [i for i, key in enumerate(keys) if keys.count(key) == 1]


def _name(o: Object) -> str:
    return f"{COLOURS[o.colour]} {SHAPES[o.shape]}"


def _colour(scene, rng, _caption):
    if choices := _unique([o.shape for o in scene.objects]):
        o = scene.objects[_pick(choices, rng)]
        return f"what color is the {SHAPES[o.shape]} ?", COLOURS[o.colour]


def _shape(scene, rng, _caption):
    if choices := _unique([o.colour for o in scene.objects]):
        o = scene.objects[_pick(choices, rng)]
        return f"what shape is the {COLOURS[o.colour]} object ?", SHAPES[o.shape]


def _size(scene, rng, caption):
    choices = _unique([(o.colour, o.shape) for o in scene.objects])
    if choices and (caption is None or caption.mentions[0].size != UNSAID):
        o = scene.objects[_pick(choices, rng)]
        return f"what size is the {_name(o)} ?", SIZES[o.size]


def _place(scene, rng, caption):
    choices = _unique([(o.colour, o.shape) for o in scene.objects])
    if choices and (caption is None or caption.mentions[0].cell != UNSAID):
        o = scene.objects[_pick(choices, rng)]
        return f"where is the {_name(o)} ?", PLACES[o.cell]


def _count(scene, rng, _caption):
    if rng.random() < 0.5:
        return OBJECTS, str(len(scene.objects))
    shapes = [o.shape for o in scene.objects]
    shape = _pick(sorted(set(shapes)), rng)
    return f"how many {PLURALS[shape]} are there ?", str(shapes.count(shape))


def existence_text(colour: int, shape: int) -> str:
    return f"is there {with_article(f'{COLOURS[colour]} {SHAPES[shape]}')} ?"


def _existence(scene, rng, _caption):
    present = sorted({(o.colour, o.shape) for o in scene.objects})
    if rng.random() < 0.5:
        answer, (colour, shape) = "yes", _pick(present, rng)
    else:
        colours, shapes = {c for c, _ in present}, {s for _, s in present}
        absent = [(c, s) for c in sorted(colours) for s in sorted(shapes) if (c, s) not in present]
        if not absent:  # a lone object: keep its colour or its shape
            colour, shape = present[0]
            absent = [(colour, s) for s in range(len(SHAPES)) if s != shape]
            absent += [(c, shape) for c in range(len(COLOURS)) if c != colour]
        answer, (colour, shape) = "no", _pick(absent, rng)
    return existence_text(colour, shape), answer


def _relation(scene, rng, caption):
    objects = scene.objects
    full, shapes = [(o.colour, o.shape) for o in objects], [o.shape for o in objects]
    choices = _unique(full)
    relations = (0, 2)
    if caption is not None and caption.mentions[0].cell == UNSAID:
        if caption.relation == UNSAID:
            return None
        said = [(m.colour, m.shape) for m in caption.mentions[:2]]
        choices = [i for i in choices if full[i] in said]
        relations = (0,) if caption.relation < 2 else (2,)
    triples = itertools.product(relations, choices, choices)
    pairs = [(r, a, b) for r, a, b in triples if holds(r, objects[a], objects[b])]
    if not pairs:
        return None
    relation, a, b = _pick(pairs, rng)
    yes = rng.random() < 0.5
    a, b = (a, b) if yes else (b, a)
    short = rng.random() < 0.5 and shapes.count(shapes[a]) == 1 and shapes.count(shapes[b]) == 1
    names = [SHAPES[objects[i].shape] if short else _name(objects[i]) for i in (a, b)]
    return f"is the {names[0]} {RELATIONS[relation]} the {names[1]} ?", "yes" if yes else "no"


_ASK = (_colour, _shape, _size, _place, _count, _existence, _relation)


def draw_questions(scene: Scene, rng: np.random.Generator, caption: Caption | None = None) -> list[Question]:
    """One question of every type that applies to the scene; with a caption, only what the caption answers."""
    asked = ((kind, ask(scene, rng, caption)) for kind, ask in zip(QUESTION_TYPES, _ASK, strict=True))
    return [Question(kind, *found) for kind, found in asked if found is not None]


def words() -> list[str]:
    """Every word of captions, questions and answers, sorted; commas and question marks included."""
    phrases = [*SHAPES, *PLURALS, *COLOURS, *SIZES, *PLACES, *RELATIONS]
    phrases += [
        "a an at and , object objects yes no",
        "what color shape size is the ?",
        "where",
        "how many are there",
        *"01234",
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})
