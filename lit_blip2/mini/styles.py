"""How captions are written: as the language models have always read them ("plain"), or as the web writes them.

A style keeps what a caption says; `names` alone leaves some of it out. What a style adds, such as "photo 3 of 4", is
drawn for each caption and says nothing of its image. Every word is one that all models of the mini-world know.
"""

import re
from typing import NamedTuple

import numpy as np

from lit_blip2.mini.grammar import UNSAID, Caption, Mention, caption_text, mention_words, with_article

BEFORE = ("photo of", "the photo of", "photo of the objects ,", "photo {} of {} ,")
AFTER = (", photo", ", the photo", ", photo {}", ", photo {} of {}")
MOST_PHOTOS = 4


class Style(NamedTuple):
    """articles: "a red ring", not "red ring". noun_first: "ring red large at top". names: captions of one kind alone,
    which say an object's colour and shape and nothing else. boilerplate: the probability of each
    number of pieces, 0, 1 and so on, in front of a caption and, drawn again, behind it."""

    articles: bool = False
    noun_first: bool = False
    names: bool = False
    boilerplate: tuple[float, ...] = (1.0,)


STYLES = {
    "boilerplate": Style(boilerplate=(0.0, 1.0)),
    "some_boilerplate": Style(boilerplate=(0.5, 0.5)),
    "much_boilerplate": Style(boilerplate=(0.0, 0.0, 1.0)),
    "no_articles": Style(),
    "noun_first": Style(noun_first=True),
    "names": Style(articles=True, names=True),
}


def styled(caption: Caption, style: Style, rng: np.random.Generator) -> str:
    """The caption's text in a style: lower-case words joined by single spaces, as the grammar's own."""
    if style.names:
        caption = Caption("plain", tuple(m._replace(size=UNSAID, cell=UNSAID) for m in caption.mentions), UNSAID)

    def mention(of: Mention) -> str:
        words = " ".join(reversed(mention_words(of)) if style.noun_first else mention_words(of))
        return with_article(words) if style.articles else words

    return " ".join([*_pieces(BEFORE, style, rng), caption_text(caption, mention), *_pieces(AFTER, style, rng)])


def _pieces(kinds: tuple[str, ...], style: Style, rng: np.random.Generator) -> list[str]:
    """Pieces of boilerplate, no kind twice."""
    count = int(np.searchsorted(np.cumsum(style.boilerplate), rng.random(), side="right"))
    drawn = [kinds[place] for place in rng.permutation(len(kinds))[:count]]
    return [_numbered(piece, rng) for piece in drawn]


def _numbered(piece: str, rng: np.random.Generator) -> str:
    """A piece with its numbers, as "photo 2 of 4": the last is the largest."""
    numbers = sorted(int(each) for each in rng.integers(1, MOST_PHOTOS + 1, size=piece.count("{}")))
    return piece.format(*numbers)


def _pattern(pieces: tuple[str, ...]) -> str:
    return "|".join(re.escape(each).replace(r"\{\}", r"\d") for each in sorted(pieces, key=len, reverse=True))


_BEFORE, _AFTER = (re.compile(pattern) for pattern in (rf"(?:{_pattern(BEFORE)}) ", rf" (?:{_pattern(AFTER)})$"))


def without_boilerplate(text: str) -> str:
    """A caption, its words and commas apart by single spaces, without the pieces around it."""
    while found := _BEFORE.match(text):
        text = text[found.end() :]
    while found := _AFTER.search(text):
        text = text[: found.start()]
    return text
