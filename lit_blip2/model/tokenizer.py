"""The Q-Former's own tokenizer: BERT's, with one more token, [DEC], as in LAVIS."""

import hashlib
from collections.abc import Sequence
from typing import Literal

from lit_blip2.model.plain import Plain
from lit_blip2.model.pretrained import read_tokenizer
from lit_blip2.model.text import PackedText
from lit_blip2.paths import OR_PUT_BACK, find


class BertTokenizer:
    """Turns texts into packed ids [CLS] words [SEP]. A longer text is cut to `max_tokens`, with a warning.

    Args:
        path: folder of a BERT tokenizer (bert-base-uncased).
        vocab_size: number of words that the Q-Former was built for, [DEC] included.
        max_tokens: longest text in tokens, [CLS] and [SEP] included; a cut text keeps both.
        cut: the end that a longer text loses.
    Raises:
        FileNotFoundError: no such folder. ValueError: the vocabulary has another size, or lacks [CLS] or [SEP].
    """

    def __init__(self, path: str, vocab_size: int, max_tokens: int, cut: Literal["beginning", "end"] = "end"):
        way_out = (
            "Get it (hf download google-bert/bert-base-uncased --local-dir weights/bert-base-uncased) and point "
            f"--model.net.tokenizer, or of a bridge --model.net.bridge.init_args.tokenizer, to it{OR_PUT_BACK}"
        )
        self.tokenizer = read_tokenizer(find(path, "tokenizer of the Q-Former", way_out))
        self.tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        self.tokenizer.truncation_side = "left" if cut == "beginning" else "right"  # an export keeps it
        self.max_tokens, self.plain = max_tokens, Plain(self.tokenizer)
        if None in (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id):
            raise ValueError(f"tokenizer {path} has no [CLS] or no [SEP] token: the Q-Former reads BERT's texts")
        words = len(self.tokenizer)
        if self.tokenizer.get_vocab().get("<image>") == vocab_size:  # Hugging Face's processor adds it
            words -= 1
        if words != vocab_size:
            raise ValueError(
                f"tokenizer {path} has {words} words with [DEC], the Q-Former was built for "
                f"vocab_size={vocab_size}: set it to the tokenizer's"
            )

    def settings(self) -> dict[str, str]:
        """A digest of the words with their ids, and of how a sample text is tokenised."""
        words = sorted((id_, word) for word, id_ in self.tokenizer.get_vocab().items() if id_ <= self.dec)
        how = self.tokenizer("A man's café, 3.5 km (or so) from U.S.A.", add_special_tokens=False)["input_ids"]
        return {"digest": hashlib.sha256(repr((words, how)).encode()).hexdigest()[:16]}

    @property
    def dec(self) -> int:
        """Id of [DEC], which takes [CLS]'s place for generation."""
        return self.tokenizer.bos_token_id

    def __call__(self, texts: Sequence[str]) -> PackedText:
        """Token ids of texts, packed. Raises ValueError, with its position, for an empty text."""
        empty = [place for place, text in enumerate(texts) if not text.strip()]
        if empty:
            raise ValueError(f"texts {empty} of this batch are empty: each needs at least one word")
        keep_end = self.tokenizer.truncation_side == "left"
        ids = self.plain.cut(
            texts, self.plain.ids(texts), self.max_tokens - 2, "text of the Q-Former", "max_text_tokens", keep_end
        )
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        return PackedText.from_lists([[first, *each, last] for each in ids])
