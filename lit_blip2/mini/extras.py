"""A small thing in a scene beside its objects, for questions about detail and about reading.

    detail   a mark two pixels wide and five high, on or beside an object. Captions call it a circle, for which the
             language models need to learn no word; scenes with a circle among their objects have no mark.
    reading  a digit, 0 to 4, in a cell without an object.

Its colour is no object's, so that what is true of the objects stays true. A caption tells it first, "a white 3 , a red
ring and a blue star", in words and in an order that the language models have read. How many objects there are is not
asked of such a scene: the thing may be counted or not.
"""

import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from lit_blip2.mini.grammar import OBJECTS, Question, with_article
from lit_blip2.mini.render import CENTRES, GLYPHS
from lit_blip2.mini.world import COLOURS, JITTER, PLACES, SHAPES, Extra, Scene

Kind = Literal["detail", "reading"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # and types of questions
MARK = "circle"
DIGITS = tuple("01234")
REACH = 9  # pixels from the middle of an object's cell to a mark, at most
_FIRST = re.compile(rf"an? (?:{'|'.join(COLOURS)}) (?:{'|'.join((MARK, *DIGITS))})(?: ?,| and) ")


def with_extras(kind: Kind, scenes: Sequence[Scene], rng: np.random.Generator) -> list[Scene]:
    """Scenes of a pair with the same thing in each, in a place of its own; as they were where it would be a second
    circle."""
    used = {o.colour for scene in scenes for o in scene.objects}
    free = [colour for colour in range(len(COLOURS)) if colour not in used]
    noun = MARK if kind == "detail" else DIGITS[int(rng.integers(len(DIGITS)))]
    colour = free[int(rng.integers(len(free)))]
    if kind == "detail" and any(SHAPES[o.shape] == MARK for scene in scenes for o in scene.objects):
        return list(scenes)
    corner = _beside_an_object if kind == "detail" else _in_a_free_cell
    return [scene._replace(extra=Extra(noun, colour, *corner(scene, noun, rng))) for scene in scenes]


def _beside_an_object(scene: Scene, noun: str, rng: np.random.Generator) -> tuple[int, int]:
    o = scene.objects[int(rng.integers(len(scene.objects)))]
    dy, dx = (int(rng.integers(-REACH, REACH + 1 - length)) for length in GLYPHS[noun].shape)
    return CENTRES[o.column] + dx, CENTRES[o.row] + dy


def _in_a_free_cell(scene: Scene, noun: str, rng: np.random.Generator) -> tuple[int, int]:
    taken = {o.cell for o in scene.objects}
    free = [cell for cell in range(len(PLACES)) if cell not in taken]
    row, column = divmod(free[int(rng.integers(len(free)))], 3)
    dx, dy = (int(each) for each in rng.integers(-JITTER, JITTER + 1, size=2))
    height, width = GLYPHS[noun].shape
    return CENTRES[column] + dx - width // 2, CENTRES[row] + dy - height // 2


def told_first(text: str, extra: Extra | None) -> str:
    """A caption's text with the thing in front."""
    if extra is None:
        return text
    said = with_article(f"{COLOURS[extra.colour]} {extra.noun}")
    return f"{said} {',' if ' and ' in text else 'and'} {text}"


def untold(text: str) -> str:
    """A caption's lower-case text without a thing that it tells first."""
    return _FIRST.sub("", text, count=1) if _FIRST.match(text) else text


def asked(questions: Sequence[Question], extra: Extra | None) -> list[Question]:
    """The questions about a scene, with one about the thing."""
    if extra is None:
        return list(questions)
    colour = COLOURS[extra.colour]
    if extra.noun == MARK:
        about = Question("detail", f"what color is the {MARK} ?", colour)
    else:
        about = Question("reading", f"what shape is the {colour} object ?", extra.noun)
    return [*(each for each in questions if each.text != OBJECTS), about]
