"""What the shipped language model reads to be tuned to instructions, and what its control reads.

The shipped one has read descriptions with questions in one fixed form, "Question: ... Answer:", and learned to
write descriptions too. Tuning to instructions means here what it means for Flan (Wei 2022): more tasks than the
questions that are tested (describe, name the objects, list colours, shapes or places, say what is at a place), each
asked in several ways, and a loss on the answers alone. No task needs a word that the world does not have. A quarter of
the documents stay plain, so that a caption without a request is not forgotten: stage 2 trains on those.

What helps must not be the additional reading: the control reads as many more documents of the plain kind. Neither
reads a document again that the shipped model has read.
"""

from collections.abc import Callable

import numpy as np

from lit_blip2.mini.grammar import UNSAID, caption_text, draw_caption, draw_questions, listed, with_article
from lit_blip2.mini.pairs import Described, described_pair
from lit_blip2.mini.train.documents import ANSWER, END, RETELL, Piece, draw_documents
from lit_blip2.mini.train.language import BATCH, curriculum
from lit_blip2.mini.train.opt import FORMS, STEPS
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES

Request = tuple[str, str, float]  # what is asked, the answer, the weight of each of its words
READ = STEPS * BATCH // 2  # pairs of scenes
PLAIN_EVERY = 4
MOST_REQUESTS = 4
WAYS = ("Question: {} Answer:", "Question: {} Short answer:", "{} Answer:", "{}")
CHECKED_FORMS = FORMS | {
    "short_answer": "{description} </s> Question: {question} Short answer:",
    "bare_question": "{description} </s> {question}",
}


def questions(told: Described, rng: np.random.Generator) -> list[Request]:
    """The kinds that are tested."""
    return [(q.text, q.answer, ANSWER) for q in draw_questions(told.scene, rng, told.captions[0])]


def descriptions(told: Described, rng: np.random.Generator) -> list[Request]:
    """All that was said, in another order; and the objects' bare names."""
    kind = told.captions[0].kind
    again = draw_caption(told.scene, rng, "plain" if kind == "relation" else kind)
    plain = draw_caption(told.scene, rng, "plain")
    asked = ("what is there ?", "a photo of")[int(rng.integers(2))]
    return [(asked, caption_text(again), RETELL), ("what objects are there ?", caption_text(plain), RETELL)]


def lists(told: Described, _rng: np.random.Generator) -> list[Request]:
    """One attribute of every object, in the order of the description."""
    mentions = told.captions[0].mentions
    found = [("what color are the objects ?", listed([COLOURS[m.colour] for m in mentions]), RETELL)]
    found += [("what shape are the objects ?", listed([SHAPES[m.shape] for m in mentions]), RETELL)]
    if mentions[0].cell != UNSAID:
        found += [("where are the objects ?", listed([PLACES[m.cell] for m in mentions]), RETELL)]
    return found


def places(told: Described, rng: np.random.Generator) -> list[Request]:
    """What is at a place, as often one with an object as one without."""
    named = {m.cell: f"{COLOURS[m.colour]} {SHAPES[m.shape]}" for m in told.captions[0].mentions}
    if UNSAID in named:
        return []
    free = [cell for cell in range(len(PLACES)) if cell not in named]
    asked = (sorted(named)[int(rng.integers(len(named)))], free[int(rng.integers(len(free)))])
    cell = asked[int(rng.integers(2))]
    return [(f"what is at {PLACES[cell]} ?", with_article(named[cell]) if cell in named else "no object", ANSWER)]


TASKS: tuple[Callable[[Described, np.random.Generator], list[Request]], ...] = (questions, descriptions, lists, places)
_SHARES = (0.5, 0.2, 0.15, 0.15)


def instruction(told: Described, rng: np.random.Generator) -> list[Piece]:
    """A description, closed by `</s>` or opened by it, and some requests, each put in one of several ways."""
    description, pieces = caption_text(told.captions[0]), []
    pieces.append((f"{description} {END}" if rng.random() < 0.5 else f"{END} {description}", 0.0))
    for _ in range(int(rng.integers(1, MOST_REQUESTS + 1))):
        found = TASKS[int(rng.choice(len(TASKS), p=_SHARES))](told, rng) or questions(told, rng)
        asked, answer, weight = found[int(rng.integers(len(found)))]
        pieces += [(WAYS[int(rng.integers(len(WAYS)))].format(asked), 0.0), (f"{answer} {END}", weight)]
    return pieces


def draw_plain(seed: int, index: int, vocabulary: list[str], *_stage: float) -> tuple[list[Piece], list[Piece]]:
    """What the shipped model would have read next."""
    return draw_documents(seed, READ + index, vocabulary, *curriculum(1.0))


def draw_instructed(seed: int, index: int, vocabulary: list[str], *_stage: float) -> tuple[list[Piece], list[Piece]]:
    """Documents 2 * index and 2 * index + 1: instructions, and every fourth pair what the control reads there."""
    if index % PLAIN_EVERY == 0:
        return draw_plain(seed, index, vocabulary)
    pair, rng = described_pair(seed, "text", READ + index, captions_per_image=1)
    a, b = (instruction(told, rng) for told in pair)
    return a, b
