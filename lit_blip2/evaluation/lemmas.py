"""Answers by their lemmas: OK-VQA's annotations hold "play tennis" where people wrote "playing tennis".

LAVIS lemmatises the nouns and verbs of predictions by spaCy's en_core_web_sm: `lemmatise_as_lavis`, for which both must
be installed. `lemmatise` needs lemminflect alone (MIT, 1 MB with its dictionary), which knows the forms of a word but
not its part of speech in a text. So the part is guessed from the word: a noun where it is a plural; else a verb where
the dictionary knows neither noun nor adjective nor adverb of that spelling, or where it is one of a few activities.
What it does not know stays: most names, and a plural such as "frisbees".

That differs from LAVIS where a tagger would read the sentence: "united states" becomes "united state", "fried chicken"
"fry chicken", "broken" and "left" stay even where they are verbs, and so do rarer activities that are nouns as well
("rafting"). "glasses" becomes "glass" and "pants" "pant".
"""

import re
from functools import cache, lru_cache
from typing import Any

MODEL = "en_core_web_sm"
_WORD = re.compile(r"(?<!')\b[a-z]+", re.IGNORECASE)  # not what follows an apostrophe
_SAME_SPELLING = ("NOUN", "ADJ", "ADV", "AUX")  # that a verb's form may also be
_ACTIVITIES = """
    flying hunting jogging landing reading running sailing shopping sitting standing swimming washing writing
""".split()  # noqa: SIM905
_IRREGULAR = {"leaves": "leaf"}  # of which the dictionary names "leave" first


def lemmatise(text: str) -> str:
    """The text with its nouns in the singular and its verbs in the infinitive, as far as the words alone tell."""
    return _WORD.sub(lambda found: _lemma(found[0]), text)


@lru_cache(maxsize=65536)
def _lemma(word: str) -> str:
    from lemminflect import getAllLemmas

    lower = word.lower()
    if lower in _IRREGULAR:
        return _IRREGULAR[lower]
    forms = getAllLemmas(lower)
    (noun, *_), (verb, *_) = forms.get("NOUN", (lower,)), forms.get("VERB", (lower,))
    if noun != lower:
        return noun
    is_verb = lower in _ACTIVITIES or not any(part in forms for part in _SAME_SPELLING)
    return verb if is_verb and verb != lower else word


@lru_cache(maxsize=65536)
def lemmatise_as_lavis(text: str) -> str:
    """The text's tokens with a space between them, nouns and verbs by their lemmas, as spaCy tells them.

    Raises ImportError that says what to install.
    """
    return " ".join(token.lemma_ if token.pos_ in ("NOUN", "VERB") else token.text for token in spacy_model()(text))


@cache
def spacy_model() -> Any:
    """Raises ImportError that says what to install."""
    try:
        import spacy

        return spacy.load(MODEL)
    except (ImportError, OSError) as error:
        raise ImportError(
            f"scoring=lavis with lemmatise=true needs spaCy and its model {MODEL}: pip install .[lavis] && "
            f"python -m spacy download {MODEL}, or set scoring to official"
        ) from error


LEMMATISERS = {"official": lemmatise, "lavis": lemmatise_as_lavis}  # by whose rules answers are scored
