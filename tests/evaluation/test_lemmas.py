"""Lemmas of answers, by hand."""

import sys
from typing import NamedTuple

import pytest

from lit_blip2.evaluation import lemmas as module
from lit_blip2.evaluation.lemmas import lemmatise
from lit_blip2.evaluation.predictions import score


@pytest.mark.parametrize(
    ("answer", "lemmas"),
    [
        ("playing tennis", "play tennis"), ("dogs", "dog"), ("grass", "grass"), ("glasses", "glass"),
        ("surfing", "surf"), ("running", "run"), ("skiing", "ski"), ("flying kites", "fly kite"), ("ate", "eat"),
        ("tennis", "tennis"), ("bus", "bus"), ("buses", "bus"), ("gas", "gas"), ("children", "child"), ("men", "man"),
        ("leaves", "leaf"), ("knives", "knife"), ("sheep", "sheep"), ("teeth", "tooth"), ("scissors", "scissors"),
        ("building", "building"), ("wedding", "wedding"), ("clothing", "clothing"), ("morning", "morning"),
        ("red", "red"), ("better", "better"), ("wooden", "wooden"), ("left", "left"), ("is", "is"), ("10", "10"),
        ("men's bikes", "man's bike"), ("don't", "don't"), ("o'clock", "o'clock"), ("Two Dogs.", "Two dog."),
        ("paris", "paris"), ("747s", "747s"), ("", ""),
    ],
)  # fmt: skip
def test_nouns_and_verbs_are_lemmatised(answer, lemmas):
    assert lemmatise(answer) == lemmas


def test_what_it_gets_wrong():
    """Without a tagger: a name is taken for nouns, a participle for a verb. Of words that it does not know a plural
    cannot be told from a name."""
    assert lemmatise("united states") == "united state" and lemmatise("fried chicken") == "fry chicken"
    assert lemmatise("frisbees") == "frisbees" and lemmatise("texas") == "texas"


def test_answers_are_scored_by_lemmas_on_request():
    row = {
        "task": "vqa", "image_id": 1, "question_id": 1, "question_type": "eight", "answers": ["surf"] * 10,
        "answer": "surfing", "no_image": "surfs",
    }  # fmt: skip
    found, plain = (score([row], lemmatised=lemmatised) for lemmatised in (True, False))
    assert {name: items.value() for name, items in found.items()} == dict.fromkeys(plain, 1)
    assert {name: items.value() for name, items in plain.items()} == dict.fromkeys(found, 0)


class Token(NamedTuple):
    text: str
    lemma_: str
    pos_: str


def test_lavis_lemmas_are_those_of_nouns_and_verbs(monkeypatch):
    """Its tagger's word counts: "left" is a verb here, "united" an adjective, and tokens get a space between them."""
    tagged = [Token("dogs", "dog", "NOUN"), Token("left", "leave", "VERB"), Token("united", "unite", "ADJ"),
              Token("n't", "not", "PART")]  # fmt: skip
    monkeypatch.setattr(module, "spacy_model", lambda: lambda text: tagged)
    row = {
        "task": "vqa", "image_id": 1, "question_id": 1, "question_type": "one",
        "answers": ["dog leave united n't"] * 10, "answer": "any text", "no_image": None,
    }  # fmt: skip
    module.lemmatise_as_lavis.cache_clear()
    assert score([row], lemmatised=True, scoring="lavis")["vqa/accuracy"].value() == 1
    module.lemmatise_as_lavis.cache_clear()


def test_without_spacy_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    module.spacy_model.cache_clear()
    with pytest.raises(ImportError, match=r"needs spaCy and its model en_core_web_sm: pip install \.\[lavis\]"):
        module.spacy_model()


def test_spacys_own_lemmas():
    spacy = pytest.importorskip("spacy")
    if not spacy.util.is_package(module.MODEL):
        pytest.skip(f"{module.MODEL} is not installed")
    assert module.lemmatise_as_lavis("playing tennis") == "play tennis"
