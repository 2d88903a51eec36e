"""Text to token ids as text alone: no word of it is a special token, and none is added to it.

A tokenizer finds its special tokens in the text that it is given, so a caption that speaks of "</s>" would end there,
and puts some before or after each text. Here the words "</s>" are read like any others, and the caller that
joins texts adds `begin`, `close` or an end mark.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from lit_blip2.contents import DataError
from lit_blip2.model.spelling import Spelling
from lit_blip2.terminal import one_line

UNSPELT = "\ue000\ue001\ue000"  # in front of a special token: three characters that no text has in a row
PROBE = "a"
SAMPLE = "A man's café, 3.5 km (or so) from U.S.A."
SHOWN = 60  # characters of a text that a message shows
EXAMPLES = 5  # words that are named
_NAMES: ContextVar[Sequence[str]] = ContextVar("names", default=())


class Known(NamedTuple):
    """How many words of some texts there are, how many of them the tokenizer does not know, and a few of those."""

    words: int
    unknown: int
    examples: tuple[str, ...]

    @classmethod
    def of(cls, parts: Sequence["Known"]) -> "Known":
        """Of several groups of texts together."""
        examples = dict.fromkeys(each for part in parts for each in part.examples)
        return cls(sum(part.words for part in parts), sum(part.unknown for part in parts), tuple(examples)[:EXAMPLES])

    @property
    def share(self) -> float:
        """Of the words that are unknown; 0 without words."""
        return self.unknown / max(1, self.words)


class Plain:
    """A Hugging Face tokenizer that reads text as text.

    begin, close: ids that the tokenizer puts before and after a text. cuts: texts cut so far, by what they were.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.backend = without_special(tokenizer) if isinstance(backend, Tokenizer) else None
        self.begin, self.close = self._around()
        self.cuts: Counter[str] = Counter()
        self._known: dict[str, bool] = {}

    def ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text's words. Raises DataError where the tokenizer's rules are such that it gives up."""
        texts = list(texts)
        try:
            if self.backend is not None:
                return [each.ids for each in self.backend.encode_batch(texts, add_special_tokens=False)]
            made = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True) if texts else None
            return made["input_ids"] if made else []
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust: no Exception, and its class cannot be imported
                raise
            raise DataError(
                f"the tokenizer of {self.tokenizer.name_or_path} gives up on a text, its rules cannot be followed "
                f"({one_line(error, 200)}): get its tokenizer.json again"
            ) from error

    @cached_property
    def probe(self) -> str:
        """A text that has tokens: the letter a, or the first token's text where the tokenizer drops that letter."""
        if self.ids([PROBE])[0]:
            return PROBE
        words = (
            self.tokenizer.decode([id_], skip_special_tokens=True).strip()
            for id_ in sorted(self.tokenizer.get_vocab().values())
        )
        return next((word for word in words if word and self.ids([word])[0]), PROBE)

    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before a text, and after it."""
        if self.backend is not None:
            made = self.tokenizer(self.probe, return_special_tokens_mask=True)
            ids, added = made["input_ids"], made["special_tokens_mask"]
            own = [place for place, each in enumerate(added) if not each]
            return (ids[: own[0]], ids[own[-1] + 1 :]) if own else (ids, [])
        ids, (own,) = self.tokenizer(self.probe)["input_ids"], self.ids([self.probe])
        first = next(place for place in range(len(ids)) if ids[place : place + len(own)] == own)
        return ids[:first], ids[first + len(own) :]

    @cached_property
    def digest(self) -> str:
        """Tells tokenizers apart: by which words have which ids, how a text becomes them, and what stands around it."""
        words = sorted((id_, word) for word, id_ in self.tokenizer.get_vocab().items())
        return hashlib.sha256(repr((words, self.ids([SAMPLE]), self.begin, self.close)).encode()).hexdigest()[:16]

    @cached_property
    def space(self) -> str:
        """What stands between a text and one that goes on from it, which is tokenised apart: a space, or nothing where
        the tokenizer itself puts one in front of every text, as sentencepiece does."""
        probe = self.probe
        one, spaced, two = self.ids([probe, f" {probe}", f"{probe} {probe}"])
        return "" if one + one == two != one + spaced else " "

    def mark(self, text: str) -> list[int]:
        """Ids of a text of the configuration that ends another one: here a special token's name means that token."""
        if text in self.tokenizer.get_added_vocab():
            return [self.tokenizer.convert_tokens_to_ids(text)]
        one, both = self.ids([self.probe, self.probe + text])
        return both[len(one) :] if both[: len(one)] == one != both else self.ids([text])[0]

    def spelt(self, text: str) -> list[str]:
        """Special tokens whose names a text holds: they are read as letters."""
        special = dict.fromkeys([*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()])
        return [name for name in special if len(name) > 1 and name in text]

    def cut(
        self,
        texts: Sequence[str],
        ids: list[list[int]],
        most: Sequence[int] | int,
        what: str,
        limit: str,
        keep_end: bool = False,
    ) -> list[list[int]]:
        """Ids of texts of at most `most` tokens, one limit for all or one for each: the first, or the last; what is cut
        is told the first time, the tenth, the hundredth. what, limit: for the message, what they are and the argument
        that sets `most`."""
        most = [most] * len(texts) if isinstance(most, int) else most
        names = _NAMES.get() if len(_NAMES.get()) == len(texts) else [""] * len(texts)
        for text, each, name, longest in zip(texts, ids, names, most):
            if len(each) > longest:
                self.cuts[what] += 1
                if set(str(self.cuts[what])[1:]) <= {"0"} and str(self.cuts[what])[0] == "1":
                    part = "last" if keep_end else "first"
                    warnings.warn(
                        f"a {what} of {len(each):,} tokens was cut to its {part} {longest:,} ({limit}); "
                        f"{self.cuts[what]:,} so far, this one{name and f', for {name},'} begins {shown(text)!r}",
                        stacklevel=3,
                    )
        return [each[-longest:] if keep_end else each[:longest] for each, longest in zip(ids, most)]

    def known(self, texts: Iterable[str]) -> Known:
        """Which words of texts hold the unknown token, or letters that no token stands for."""
        counts = Counter(word for text in texts for word in text.split())
        new = [word for word in counts if word not in self._known]
        self._known |= {word: self._spelling.knows(word, ids) for word, ids in zip(new, self.ids(new))}
        strange = [word for word, _ in counts.most_common() if not self._known[word]]
        return Known(counts.total(), sum(counts[word] for word in strange), tuple(strange[:EXAMPLES]))

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling(self.tokenizer, self.backend)


@contextmanager
def naming(names: Sequence[str]) -> Iterator[None]:
    """Within it, a text that is cut is named, as "image 12", where there is one text for each name."""
    before = _NAMES.set(names)
    try:
        yield
    finally:
        _NAMES.reset(before)


def shown(text: str) -> str:
    """A text as a message shows it: no more than its beginning."""
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def without_special(tokenizer: Any) -> Tokenizer:
    """A fast tokenizer in which special tokens have names that no text spells; all ids are the same.

    It is not enough to tell the tokenizer to split them: a model of whole words, or T5's pieces, finds them in its
    vocabulary.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {each["content"] for each in content["added_tokens"] if each["special"]}
    special |= set(tokenizer.all_special_tokens)
    # A letter that is a special token too, as the "!" that some pad with, is a letter where a text has it.
    letters = {word for word in special if len(word) == 1}
    special -= letters

    def name(word: str) -> str:
        return UNSPELT + word if word in special else word

    content |= {"post_processor": None, "truncation": None, "padding": None}
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] not in letters]
    for each in content["added_tokens"]:
        if each["content"] in special:
            each |= {"content": name(each["content"]), "normalized": False}
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {name(word): id_ for word, id_ in model["vocab"].items()}
    else:
        model["vocab"] = [[name(word), score] for word, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = name(model["unk_token"])
    if "merges" in model:  # none may make a special token out of its parts, nor go on from one
        parts = ((pair, pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"])
        model["merges"] = [pair for pair, both in parts if not special & {*both, "".join(both)}]
    return Tokenizer.from_str(json.dumps(content))
