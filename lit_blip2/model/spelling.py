"""Whether a tokenizer knows a word: its tokens spell the whole word, and none of them is the unknown token.

A tokenizer without an unknown token drops the letters that it has no token for: "ZEBRA" becomes "A", and no id says so.
The word is compared after the tokenizer's own normalisation, which may lower its case or strip its accents.
"""

import json
import re
from typing import Any
from unicodedata import normalize

from tokenizers import Tokenizer

BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")  # a character for which there are only tokens of its bytes


class Spelling:
    """Checks whether the ids of a Hugging Face tokenizer spell a word, letter by letter if it is a fast tokenizer.

    Args:
        tokenizer: the tokenizer from transformers.
        backend: the fast tokenizer that made the ids; None: it is written in Python, and only the ids are checked.
    """

    def __init__(self, tokenizer: Any, backend: Tokenizer | None):
        model = {} if backend is None else json.loads(backend.to_str())["model"]
        self.backend = backend
        self.continued = model.get("continuing_subword_prefix") or ""
        self.ended = model.get("end_of_word_suffix") or ""
        self.added = set() if backend is None else set(backend.get_added_tokens_decoder())
        named = None if backend is None else backend.token_to_id(model.get("unk_token") or "")
        self.unknown = {tokenizer.unk_token_id, model.get("unk_id"), named} - {None}

    def knows(self, word: str, ids: list[int]) -> bool:
        """Whether the ids of a word stand for all of it."""
        if not ids or not self.unknown.isdisjoint(ids):
            return False
        return self.backend is None or all(map(self._complete, self._without_added(word)))

    def _without_added(self, word: str) -> list[str]:
        """The parts of a word between tokens that were added to the vocabulary: these are found before it is split."""
        made, parts, start = self.backend.encode(word, add_special_tokens=False), [], 0
        for id_, (begin, end) in zip(made.ids, made.offsets):
            if id_ in self.added:
                parts, start = [*parts, word[start:begin]], end
        return [part for part in [*parts, word[start:]] if part]

    def _complete(self, part: str) -> bool:
        """Whether normalising and splitting keep all letters of a part of a word, and the tokens spell all pieces."""
        normalizer, splitter = self.backend.normalizer, self.backend.pre_tokenizer
        normal = part if normalizer is None else normalizer.normalize_str(part)
        pieces = [(normal, (0, len(normal)))] if splitter is None else splitter.pre_tokenize_str(normal)
        kept = "".join(normal[begin:end] for _, (begin, end) in pieces)
        return _letters(kept) >= _letters(part) and all(self._spells(piece) for piece, _ in pieces)

    def _spells(self, piece: str) -> bool:
        """Whether the model's tokens of a piece of a word spell it."""
        tokens = [token.value for token in self.backend.model.tokenize(piece)]
        text = "".join(tokens[:1] + [each.removeprefix(self.continued) for each in tokens[1:]])
        text = text.removesuffix(self.ended)
        return piece in (text, BYTES.sub(_characters, text))


def _letters(text: str) -> int:
    """How many letters and digits a text has; "fi" counts as two also where it is written as one character."""
    return sum(map(str.isalnum, normalize("NFKD", text)))


def _characters(spelt: re.Match) -> str:
    return bytes.fromhex(spelt[0].replace("<0x", "").replace(">", "")).decode(errors="replace")
