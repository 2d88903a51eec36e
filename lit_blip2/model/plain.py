"""Tokenises plain text: special tokens are neither recognised in it nor added to it.

A tokenizer recognises special tokens in its input, so a caption that mentions "</s>" would end there. It also puts
some before or after each text. Here "</s>" is read like any other words, and the caller that joins texts adds `begin`,
`close` or an end mark.
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

UNSPELT = "\ue000\ue001\ue000"  # put before a special token's name: three characters that no text has in a row
PROBE = "a"
SAMPLE = "A man's café, 3.5 km (or so) from U.S.A."
SHOWN = 60  # characters of a text that a message shows
EXAMPLES = 5  # words that are named
_NAMES: ContextVar[Sequence[str]] = ContextVar("names", default=())


class Known(NamedTuple):
    """Number of words in some texts, number of those that the tokenizer does not know, and a few of the unknown."""

    words: int
    unknown: int
    examples: tuple[str, ...]

    @classmethod
    def of(cls, parts: Sequence["Known"]) -> "Known":
        """The sum over several groups of texts."""
        examples = dict.fromkeys(each for part in parts for each in part.examples)
        return cls(sum(part.words for part in parts), sum(part.unknown for part in parts), tuple(examples)[:EXAMPLES])

    @property
    def share(self) -> float:
        """Share of the words that are unknown; 0 if there are no words."""
        return self.unknown / max(1, self.words)


class Plain:
    """A Hugging Face tokenizer that reads text as plain text.

    begin, close: ids that the tokenizer puts before and after a text. cuts: number of texts cut so far, by their kind.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.backend = without_special(tokenizer) if isinstance(backend, Tokenizer) else None
        self.begin, self.close = self._around()
        self.cuts: Counter[str] = Counter()
        self._known: dict[str, bool] = {}

    def ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens. Raises DataError if the tokenizer's rules make it fail."""
        texts = list(texts)
        try:
            if self.backend is not None:
                return [each.ids for each in self.backend.encode_batch(texts, add_special_tokens=False)]
            made = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True) if texts else None
            return made["input_ids"] if made else []
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's panic: no Exception, and its class cannot be imported
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
        """Token ids that the tokenizer puts before and after a text."""
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
        """Tells tokenizers apart: a hash of the words with their ids, a tokenised sample, and what stands around it."""
        words = sorted((id_, word) for word, id_ in self.tokenizer.get_vocab().items())
        return hashlib.sha256(repr((words, self.ids([SAMPLE]), self.begin, self.close)).encode()).hexdigest()[:16]

    @cached_property
    def space(self) -> str:
        """What to put before a text that continues another one and is tokenised separately: a space, or nothing if the
        tokenizer itself puts a space before every text, as sentencepiece does."""
        probe = self.probe
        one, spaced, two = self.ids([probe, f" {probe}", f"{probe} {probe}"])
        return "" if one + one == two != one + spaced else " "

    def mark(self, text: str) -> list[int]:
        """Token ids of an end mark from the configuration. Here the name of a special token means that token."""
        if text in self.tokenizer.get_added_vocab():
            return [self.tokenizer.convert_tokens_to_ids(text)]
        one, both = self.ids([self.probe, self.probe + text])
        return both[len(one) :] if both[: len(one)] == one != both else self.ids([text])[0]

    def spelt(self, text: str) -> list[str]:
        """Names of special tokens that occur in a text, where they are read as letters."""
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
        """Token ids cut to at most `most` tokens, one limit for all texts or one for each. Keeps the first tokens, or
        with `keep_end` the last. Warns of the first, tenth, hundredth cut. what, limit: for the warning, the kind of
        text and the argument that sets `most`."""
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
        """Counts the words of texts, and those with the unknown token or with letters that have no token."""
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
    """Within this context, a warning of a cut text names it, such as "image 12", if there is one text for each name."""
    before = _NAMES.set(names)
    try:
        yield
    finally:
        _NAMES.reset(before)


def shown(text: str) -> str:
    """A text as a message shows it: no more than its beginning."""
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def without_special(tokenizer: Any) -> Tokenizer:
    """A copy of a fast tokenizer in which special tokens have names that no text spells; all ids stay the same.

    It is not enough to tell the tokenizer to split special tokens: a word-level model, or T5's, would still find them
    in its vocabulary.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {each["content"] for each in content["added_tokens"] if each["special"]}
    special |= set(tokenizer.all_special_tokens)
    # A single character that is also a special token, such as "!" for padding, stays a character in texts.
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
    if "merges" in model:  # no merge may make a special token from parts, or continue one
        parts = ((pair, pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"])
        model["merges"] = [pair for pair, both in parts if not special & {*both, "".join(both)}]
    return Tokenizer.from_str(json.dumps(content))
