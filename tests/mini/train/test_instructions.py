"""Instruction documents: answers that the description gives, in words that the language model has."""

import numpy as np
import pytest

from lit_blip2.mini.grammar import caption_text, draw_caption
from lit_blip2.mini.pairs import Described
from lit_blip2.mini.train.documents import draw_documents
from lit_blip2.mini.train.instructions import READ, descriptions, draw_instructed, draw_plain, lists, places, questions
from lit_blip2.mini.train.language import curriculum
from lit_blip2.mini.vocabulary import opt_tokenizer
from lit_blip2.mini.world import Object, Scene

# A large red circle at top left and a small blue ring at right.
SCENE = Scene((Object(0, 0, 1, 0, 0, 0), Object(5, 2, 0, 5, 0, 0)), 0)
VOCABULARY = ["red", "blue", "ring"]


def told(kind: str) -> Described:
    for seed in range(20):
        caption = draw_caption(SCENE, np.random.default_rng(seed), kind)
        if caption.mentions[0].colour == 0:
            return Described(SCENE, (caption,))
    raise AssertionError


def answers(task, kind: str) -> dict[str, set[str]]:
    found = {}
    for seed in range(40):
        for asked, answer, weight in task(told(kind), np.random.default_rng(seed)):
            assert weight > 0
            found.setdefault(asked, set()).add(answer)
    return found


def test_lists_follow_the_description():
    assert answers(lists, "full") == {
        "what color are the objects ?": {"red and blue"},
        "what shape are the objects ?": {"circle and ring"},
        "where are the objects ?": {"top left and right"},
    }
    assert "where are the objects ?" not in answers(lists, "plain")


def test_places_are_answered_where_they_are_said():
    found = answers(places, "no size")
    assert found.pop("what is at top left ?") == {"a red circle"} and found.pop("what is at right ?") == {"a blue ring"}
    assert set().union(*found.values()) == {"no object"}
    assert answers(places, "plain") == {}


@pytest.mark.parametrize("kind", ["full", "no size", "no place", "plain", "relation"])
def test_descriptions_say_no_more_than_was_said(kind):
    read = set(caption_text(told(kind).captions[0]).split()) | {"and"}
    for said in answers(descriptions, kind).values():
        assert all(set(answer.split()) <= read for answer in said)


def test_questions_are_the_tested_kinds():
    assert answers(questions, "full")["where is the blue ring ?"] == {"right"}


def test_only_answers_have_weight_and_every_word_is_known():
    known = opt_tokenizer().get_vocab()
    for index in range(1, 40):
        if index % 4:
            for document in draw_instructed(0, index, VOCABULARY):
                assert [weight > 0 for _, weight in document] == [False] + [False, True] * (len(document) // 2)
                assert all(word in known for text, _ in document for word in text.split())
                assert all(text.endswith("</s>") for text, _ in document[2::2])


def test_documents_are_new_and_a_quarter_is_plain():
    assert draw_plain(0, 3, VOCABULARY) == draw_documents(0, READ + 3, VOCABULARY, *curriculum(1.0))
    plain = [draw_instructed(0, k, VOCABULARY) == draw_plain(0, k, VOCABULARY) for k in range(8)]
    assert plain == [True, False, False, False] * 2
    assert draw_instructed(0, 5, VOCABULARY) == draw_instructed(0, 5, VOCABULARY, 1.0, 1.0, 1.0)
