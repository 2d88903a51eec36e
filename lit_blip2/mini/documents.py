"""The frozen language model's reading: descriptions, questions about them, and random words said twice.

A document is a list of (text, weight) pieces; the weight is that of the piece's tokens in the loss. `</s>` ends
a document, and in half of them stands between description and question, as it does after a soft prompt.
"""

import numpy as np

from lit_blip2.mini.grammar import Question, caption_text, draw_caption, draw_questions
from lit_blip2.mini.pairs import Described, described_pair

END = "</s>"
Piece = tuple[str, float]
ANSWER, REPEAT, RETELL, TELL, ASK = 1.0, 0.5, 0.3, 0.05, 0.02
MOST_QUESTIONS = 5
# How eagerly a type is asked: what takes two look-ups takes longer to learn.
PRACTICE = {"colour": 2, "shape": 1, "size": 2, "place": 2, "count": 1, "existence": 3, "relation": 4}


def prompt(question: str) -> str:
    return f"Question: {question} Answer:"


def _asked(questions: list[Question]) -> list[Piece]:
    pieces = []
    for q in questions:
        pieces += [(prompt(q.text), ASK), (f"{q.answer} {END}", ANSWER)]
    return pieces


def comprehension(told: Described, rng: np.random.Generator) -> list[Piece]:
    """A description, and up to five questions that it answers."""
    caption = told.captions[0]
    questions = draw_questions(told.scene, rng, caption)
    most = int(rng.integers(1, MOST_QUESTIONS + 1))
    haste = rng.exponential(size=len(questions)) / [PRACTICE[q.type] for q in questions]
    questions = [questions[i] for i in np.argsort(haste)[:most]]
    text = caption_text(caption)
    opening = f"{text} {END}" if rng.random() < 0.5 else f"{END} {text}"
    return [(opening, TELL), *_asked(questions)]


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
    """Random words twice, the second time backwards in half of the cases.

    So that looking back for what followed a word, and for what stood before it, pays from the start: a shape is
    asked for by the colour before it, a colour by the shape behind it.
    """
    chosen = [vocabulary[i] for i in rng.integers(len(vocabulary), size=int(rng.integers(6, 25)))]
    again = chosen if rng.random() < 0.5 else chosen[::-1]
    return [(" ".join(chosen), 0.0), (f"{' '.join(again)} {END}", REPEAT)]


_WRITE = (comprehension, retelling, guesswork, description)
_SHARES = np.cumsum((0.72, 0.12, 0.11, 0.05))


def draw_documents(seed: int, index: int, vocabulary: list[str], repeated: float) -> tuple[list[Piece], list[Piece]]:
    """Documents 2 * index and 2 * index + 1; a share `repeated` of them is random words."""
    pair, rng = described_pair(seed, "text", index, captions_per_image=1)
    documents = []
    for told in pair:
        if rng.random() < repeated:
            documents.append(repetition(vocabulary, rng))
        else:
            documents.append(_WRITE[int(np.searchsorted(_SHARES, rng.random(), side="right"))](told, rng))
    return documents[0], documents[1]
