"""Lemmas of answers: OK-VQA's annotations hold "play tennis" where people wrote "playing tennis".

`lemmatise_as_lavis` does what LAVIS does: spaCy's en_core_web_sm lemmatises the nouns and verbs of predictions. Both
must be installed. `lemmatise` needs lemminflect alone (MIT, 1 MB with its dictionary), which knows the forms of a word
but not its part of speech in a text. So the part is guessed from the word. It is a noun if it is a plural. Else it is a
verb if the dictionary has no noun, adjective or adverb of that spelling, or if it is one of a few activities. Words
that it does not know stay: most names, and plurals such as "frisbees".

The results differ from LAVIS if a tagger would need the sentence: "united states" becomes "united state", "fried
chicken" "fry chicken", "broken" and "left" stay even if they are verbs, and so do rarer activities that are nouns as
well ("rafting"). "glasses" becomes "glass" and "pants" "pant".
"""

import re
from functools import cache, lru_cache
from typing import Any

MODEL = "en_core_web_sm"
_WORD = re.compile(r"(?<!')\b[a-z]+", re.IGNORECASE)  # not what follows an apostrophe
_SAME_SPELLING = ("NOUN", "ADJ", "ADV", "AUX")  # a word that is one of these is taken for no verb
_ACTIVITIES = """
    flying hunting jogging landing reading running sailing shopping sitting standing swimming washing writing
""".split()  # noqa: SIM905
_IRREGULAR = {"leaves": "leaf"}  # for which the dictionary names "leave" first


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
    """The text's tokens joined by spaces, with nouns and verbs replaced by spaCy's lemmas.

    Raises ImportError that says what to install.
    """
    return " ".join(token.lemma_ if token.pos_ in ("NOUN", "VERB") else token.text for token in spacy_model()(text))


@cache
def spacy_model() -> Any:
    """spaCy's model, loaded once. Raises ImportError that says what to install."""
    try:
        import spacy

        return spacy.load(MODEL)
    except (ImportError, OSError) as error:
        raise ImportError(
            f"scoring=lavis with lemmatise=true needs spaCy and its model {MODEL}: pip install .[lavis] && "
            f"python -m spacy download {MODEL}, or set scoring to official"
        ) from error


LEMMATISERS = {"official": lemmatise, "lavis": lemmatise_as_lavis}  # scoring -> how it lemmatises
