"""Checks whether the tokenizers of a network know the words of the texts that they read.

A tokenizer of few words reads "a cup of coffee" as "a [UNK] of [UNK]": training goes on, and learns nothing of cups.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from lit_blip2.data.annotations.binding import Pairs
from lit_blip2.data.annotations.captions import Captions
from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.batches.pairs import FilePairs, PairSource, ShardPairs, sources_in
from lit_blip2.model.plain import Known, Plain, shown
from lit_blip2.objectives.joint import Joint

MOST = 2000  # images, or questions, of a source that are sampled
CAPTIONS, QUESTIONS, ANSWERS, PROMPT = "captions", "questions", "answers", "prompt"
TEMPLATE = "the text around each question"
DRAWN = {"caption": CAPTIONS, "question": QUESTIONS, "answer": ANSWERS}  # a training source's key of a text -> its kind


class Told(NamedTuple):
    """What a tokenizer knows of the texts of a kind."""

    reader: str
    kind: str
    known: Known

    def __str__(self) -> str:
        known, examples = self.known, ", ".join(map(shown, self.known.examples))
        share = f"{known.share:.1%} of {known.words:,} words of {self.kind} are unknown to the tokenizer of the"
        return f"{share} {self.reader}" + (f" ({examples})" if examples else "")


def tokenizers(net: nn.Module) -> dict[str, tuple[Plain, tuple[str, ...]]]:
    """Reader -> its tokenizer and the kinds of texts that it reads, for a network whose tokenizers are loaded."""
    stage1, stage2 = (net.stage1, net.stage2) if isinstance(net, Joint) else (net, net)
    found = {}
    if getattr(stage1, "tokenizer", None) is not None:
        found["Q-Former"] = stage1.tokenizer.plain, (CAPTIONS,)
    if hasattr(stage2, "language") and getattr(stage2.language, "tokenizer", None) is not None:
        found["language model"] = stage2.language.plain, (CAPTIONS, QUESTIONS, ANSWERS, PROMPT, TEMPLATE)
        if stage2.reads_prompts:
            found["bridge"] = stage2.bridge.tokenizer.plain, (QUESTIONS, PROMPT, TEMPLATE)
    return found


def tables_of(pairs: PairSource | None, *splits: dict[str, Any]) -> list[Any]:
    """The training sources and evaluation tables that have texts."""
    sources = [] if pairs is None else [getattr(each, "pairs", each) for each in sources_in(pairs)]
    own = [each.texts if isinstance(each, FilePairs) else each for each in sources]
    return [*own, *(table for tables in splits for table in tables.values())]


def texts_of(table: Any) -> dict[str, list[str]]:
    """A sample of a table's own texts, by kind, evenly spread. For a class that is not known here, such as a user's own
    source, the texts that it draws in training; warns if it draws none."""
    rows = np.linspace(0, len(table) - 1, min(MOST, len(table))).astype(int).tolist()
    if isinstance(table, Questions):
        return {
            QUESTIONS: [table.texts[row] for row in rows],
            ANSWERS: [text for row in rows for text in table.answers_of(row)],
        }
    if isinstance(table, Captions):
        return {CAPTIONS: [text for row in rows for text in table.of(row)]}
    if isinstance(table, ShardPairs):
        return {CAPTIONS: [text for row in rows for text in table.captions(row)]}
    return {CAPTIONS: [table.captions[row] for row in rows]} if isinstance(table, Pairs) else _drawn(table, rows)


def _drawn(table: Any, rows: Sequence[int]) -> dict[str, list[str]]:
    """The texts that a source draws for some of its rows, by kind."""
    texts, rng = defaultdict(list), np.random.default_rng(0)
    for row in rows:
        source = table.span(row) if hasattr(table, "span") else table
        if not hasattr(source, "draw"):
            warnings.warn(f"unknown words: not looked at in {type(table).__name__}, which draws no texts", stacklevel=2)
            return {}
        for name, text in source.draw(row, rng).items():
            if name in DRAWN:
                texts[DRAWN[name]].append(text)
    return dict(texts)


def look(net: nn.Module, tables: Iterable[Any], question: str = "{}") -> list[Told]:
    """What each tokenizer of a network knows of each kind of text that it reads, for each table by itself: few training
    captions must not hide behind many validation captions.

    question: the template of a question. Its words are a kind of their own, so that they do not make up for a
    question's.
    """
    found = [texts_of(table) for table in tables]
    asked = any(QUESTIONS in texts for texts in found)
    fixed = {
        PROMPT: [getattr(getattr(net, "stage2", net), "prompt", "")],
        TEMPLATE: [question.replace("{}", " ")] if asked else [],
    }
    told = [
        Told(reader, kind, plain.known(texts.get(kind, ())))
        for texts in [fixed, *found]
        for reader, (plain, kinds) in tokenizers(net).items()
        for kind in kinds
    ]
    return [each for each in told if each.known.words]


def summed(told: Iterable[Told]) -> list[Told]:
    """One for each tokenizer and kind of text, of all tables together."""
    found: dict[tuple[str, str], list[Known]] = {}
    for each in told:
        found.setdefault((each.reader, each.kind), []).append(each.known)
    return [Told(*key, Known.of(known)) for key, known in found.items()]


def letters(net: nn.Module, texts: Iterable[str]) -> list[str]:
    """One line for each prompt or template that names special tokens: they are read as letters."""
    readers = [(reader, plain) for reader, (plain, kinds) in tokenizers(net).items() if TEMPLATE in kinds]
    return [
        f"the prompt {shown(text)!r} names {', '.join(names)}: text is read as text, so these are letters to the "
        f"{reader}, and not its special tokens"
        for text in dict.fromkeys(texts)
        for reader, plain in readers
        if (names := plain.spelt(text))
    ]


def check_known(told: Sequence[Told], limit: float) -> None:
    """Raises ValueError where more than a share `limit` of the words of captions, questions or answers is unknown."""
    if strange := [str(each) for each in told if each.kind not in (PROMPT, TEMPLATE) and each.known.share > limit]:
        raise ValueError(
            f"{'; '.join(strange)}; data.max_unknown_words is {limit}: use a model whose tokenizer covers these "
            "words, or raise data.max_unknown_words"
        )
