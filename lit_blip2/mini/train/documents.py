"""The frozen language model's reading: descriptions, questions about them, and random words said twice.

A document is a list of (text, weight) pieces; the weight is that of the piece's tokens in the loss. `</s>` ends
a document, and in half of them stands between description and question, as it does after a soft prompt.
"""

import numpy as np

from lit_blip2.mini.grammar import UNSAID, Question, caption_text, draw_caption, draw_questions, with_article
from lit_blip2.mini.pairs import Described, described_pair
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, STREAMS, bucket

END = "</s>"
Piece = tuple[str, float]
ANSWER, REPEAT, RETELL, TELL, ASK = 1.0, 0.5, 0.3, 0.05, 0.02
MOST_QUESTIONS = 5
SIDES = ("left", "right", "top", "bottom")


def prompt(question: str) -> str:
    return f"Question: {question} Answer:"


def _asked(questions: list[Question]) -> list[Piece]:
    pieces = []
    for q in questions:
        pieces += [(prompt(q.text), ASK), (f"{q.answer} {END}", ANSWER)]
    return pieces


def cut(told: Described, rng: np.random.Generator, most: int) -> Described:
    """At most `most` of a scene's objects, with a caption of their own: what to start with.

    Where that would be a scene of another split, the scene stays whole.
    """
    some = rng.permutation(len(told.scene.objects))[:most]
    scene = told.scene._replace(objects=tuple(told.scene.objects[i] for i in some))
    return Described(scene, (draw_caption(scene, rng),)) if bucket(scene) in STREAMS["text"][1] else told


def half_existence(told: Described, rng: np.random.Generator) -> Question:
    """A step towards existence, never asked elsewhere: a shape of any colour, or a colour of any shape."""
    field, names, rest = ((0, SHAPES, ""), (1, COLOURS, " object"))[int(rng.integers(2))]
    present = sorted({o[field] for o in told.scene.objects})
    yes = rng.random() < 0.5
    choices = present if yes else [i for i in range(len(names)) if i not in present]
    name = names[choices[int(rng.integers(len(choices)))]]
    return Question("half", f"is there {with_article(name + rest)} ?", "yes" if yes else "no")


def half_relation(told: Described, rng: np.random.Generator) -> list[Question]:
    """A step towards relation, never asked elsewhere: is this object in that outer row or column?"""
    mentions = told.captions[0].mentions
    names = [f"{COLOURS[m.colour]} {SHAPES[m.shape]}" for m in mentions]
    side, yes = SIDES[int(rng.integers(len(SIDES)))], rng.random() < 0.5
    choices = [
        name
        for name, m in zip(names, mentions, strict=True)
        if names.count(name) == 1 and m.cell != UNSAID and (side in PLACES[m.cell].split()) == yes
    ]
    if not choices:
        return []
    name = choices[int(rng.integers(len(choices)))]
    return [Question("half", f"is the {name} at the {side} ?", "yes" if yes else "no")]


def _examination(description: str, questions: list[Question], most: int, rng: np.random.Generator) -> list[Piece]:
    """The description, closed by `</s>` or opened by it, and at most `most` of the questions in random order."""
    asked = _asked([questions[i] for i in rng.permutation(len(questions))[:most]])
    opening = f"{description} {END}" if rng.random() < 0.5 else f"{END} {description}"
    return [(opening, TELL), *asked]


def comprehension(told: Described, rng: np.random.Generator) -> list[Piece]:
    """A description, and up to five questions that it answers."""
    caption = told.captions[0]
    questions = draw_questions(told.scene, rng, caption)
    return _examination(caption_text(caption), questions, int(rng.integers(1, MOST_QUESTIONS + 1)), rng)


def existence_drill(told: Described, rng: np.random.Generator, small: bool) -> list[Piece]:
    """Existence and its halves over and over, of one or two objects if `small`."""
    if small:
        told = cut(told, rng, int(rng.integers(1, 3)))
    caption = told.captions[0]
    questions = [half_existence(told, rng) for _ in range(2)]
    for _ in range(3):
        questions += [q for q in draw_questions(told.scene, rng, caption) if q.type == "existence"]
    return _examination(caption_text(caption), questions, MOST_QUESTIONS, rng)


def relation_drill(told: Described, rng: np.random.Generator, small: bool) -> list[Piece]:
    """Relations, their halves and places over and over, of two objects if `small`."""
    if small:
        told = cut(told, rng, 2)
    caption = draw_caption(told.scene, rng, ("full", "no size")[int(rng.integers(2))])
    told = Described(told.scene, (caption,))
    questions = [q for q in draw_questions(told.scene, rng, caption) if q.type == "place"]
    for _ in range(3):
        questions += half_relation(told, rng)
        questions += [q for q in draw_questions(told.scene, rng, caption) if q.type == "relation"]
    return _examination(caption_text(caption), questions, MOST_QUESTIONS + 1, rng)


def retelling(told: Described, rng: np.random.Generator) -> list[Piece]:
    """A full description, then another of the same scene."""
    first = caption_text(draw_caption(told.scene, rng, "full"))
    second = caption_text(told.captions[0])
    return [(f"{first} {END}", TELL), (f"{second} {END}", RETELL)]


def guesswork(told: Described, rng: np.random.Generator) -> list[Piece]:
    """A question about a scene that is not described: what is left is the prior."""
    questions = draw_questions(told.scene, rng)
    return [(END, 0.0), *_asked([questions[int(rng.integers(len(questions)))]])]


def description(told: Described, _rng: np.random.Generator) -> list[Piece]:
    return [(f"{END} {caption_text(told.captions[0])} {END}", TELL)]


def repetition(vocabulary: list[str], rng: np.random.Generator) -> list[Piece]:
    """Random words twice, so that looking back for what followed a word pays from the start."""
    chosen = " ".join(vocabulary[i] for i in rng.integers(len(vocabulary), size=int(rng.integers(6, 25))))
    return [(chosen, 0.0), (f"{chosen} {END}", REPEAT)]


_WRITE = (comprehension, retelling, guesswork, description)
_SHARES = np.cumsum((0.72, 0.12, 0.11, 0.05))


def draw_documents(
    seed: int, index: int, vocabulary: list[str], repeated: float, drilled: float, small: float
) -> tuple[list[Piece], list[Piece]]:
    """Documents 2 * index and 2 * index + 1.

    A share `repeated` of them is random words and a share `drilled` of the others drills, of which a share `small`
    is about one or two objects.
    """
    pair, rng = described_pair(seed, "text", index, captions_per_image=1)
    documents = []
    for told in pair:
        if rng.random() < repeated:
            documents.append(repetition(vocabulary, rng))
        elif rng.random() < drilled:
            drill = (existence_drill, relation_drill)[int(rng.integers(2))]
            documents.append(drill(told, rng, rng.random() < small))
        else:
            write = _WRITE[int(np.searchsorted(_SHARES, rng.random(), side="right"))]
            documents.append(write(told, rng))
    return documents[0], documents[1]
