import numpy as np

from lit_blip2.mini.documents import (
    ANSWER,
    END,
    REPEAT,
    comprehension,
    draw_documents,
    guesswork,
    repetition,
    retelling,
)
from lit_blip2.mini.grammar import caption_text
from lit_blip2.mini.pairs import described_pair

VOCABULARY = [chr(ord("a") + i) for i in range(24)]


def told(index: int = 0):
    return described_pair(0, "text", index, 1)[0][0]


def answers(pieces) -> list[str]:
    return [text for text, weight in pieces if weight == ANSWER]


def test_comprehension_opens_in_both_orders_and_ends():
    openings = set()
    for seed in range(40):
        pieces = comprehension(told(), np.random.default_rng(seed))
        text = caption_text(told().captions[0])
        assert pieces[0][0] in (f"{text} {END}", f"{END} {text}")
        assert answers(pieces) and all(a.endswith(f" {END}") for a in answers(pieces))
        assert all(p[0].startswith("Question: ") and p[0].endswith(" Answer:") for p in pieces[1::2])
        openings.add(pieces[0][0].startswith(END))
    assert openings == {True, False}


def test_guesswork_describes_nothing():
    pieces = guesswork(told(), np.random.default_rng(0))
    assert pieces[0][0] == END and len(pieces) == 3


def test_retelling_gives_away_places_first():
    for k in range(20):
        first, second = retelling(told(k), np.random.default_rng(k))
        assert first[0].count(" at ") == len(told(k).scene.objects)
        assert second[0] == f"{caption_text(told(k).captions[0])} {END}"


def test_repetition_says_the_words_twice():
    (first, free), (again, weight) = repetition(VOCABULARY, np.random.default_rng(0))
    assert (free, weight) == (0.0, REPEAT)
    assert again == f"{first} {END}"


def test_documents_are_reproducible_and_the_share_counts():
    assert draw_documents(0, 5, VOCABULARY, 0.5, 0.5) == draw_documents(0, 5, VOCABULARY, 0.5, 0.5)
    everything = [d for k in range(50) for d in draw_documents(0, k, VOCABULARY, 1.0, 0.5)]
    assert all(set(text.split()) <= {*VOCABULARY, END} for d in everything for text, _ in d)
    nothing = [d for k in range(50) for d in draw_documents(0, k, VOCABULARY, 0.0, 0.5)]
    assert all(d[-1][0].endswith(END) for d in nothing)
    assert not any(weight == REPEAT for d in nothing for _, weight in d)
