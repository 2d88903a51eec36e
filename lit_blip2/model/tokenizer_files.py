"""Checks the files of a tokenizer: which class may read them, and whether it read all that they hold.

If a text file is missing, or was cut at the end of a line, the tokenizer gives wrong tokens for every text, without an
error.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from lit_blip2.contents import read_object, shown
from lit_blip2.trust import NotAllowedError

WHOLE, CONFIG, TOLD = "tokenizer.json", "config.json", "tokenizer_config.json"
PIECES, TRIED = "tokenizer.model", 50  # sentencepiece's file, and how many words of a vocabulary are tried
MERGES, WORDS = "merges.txt", "vocab.txt"
MOST_LOST = 0.01  # largest share of a vocabulary's words that may be made by no merge


def check_class(folder: Path) -> None:
    """Raises NotAllowedError if a folder names a tokenizer_class that is no tokenizer. transformers takes any of its
    classes there, such as processors and models, and these read further files."""
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
    from transformers.utils.import_utils import DummyObject  # stands for a class whose library is not installed

    for file in (folder / TOLD, folder / CONFIG):
        name = read_object(file).get("tokenizer_class") if file.is_file() else None
        if name is None:
            continue
        plain = name.removesuffix("Fast") if isinstance(name, str) else ""
        found = [tokenizer_class_from_name(each) for each in (name, plain, f"{plain}Fast")] if plain else [name]
        for each in found:
            known = isinstance(each, type) and issubclass(each, PreTrainedTokenizerBase)
            if each is not None and not known and not isinstance(each, DummyObject):
                raise NotAllowedError(
                    f"{file}: tokenizer_class is {shown(name)}, which is no tokenizer of transformers: name the class "
                    "that the tokenizer was saved by"
                )


def check_read(folder: Path, tokenizer: Any) -> None:
    """Raises ValueError if a tokenizer lacks something that its folder's files hold, or if a file was cut."""
    if (folder / WHOLE).is_file():
        _check_as_told(folder / WHOLE, tokenizer)
        return
    _check_pieces(folder, tokenizer)
    if (folder / MERGES).is_file():
        _check_merges(folder / MERGES, tokenizer)
    if (folder / WORDS).is_file():
        _check_words(folder / WORDS, tokenizer)


def _check_as_told(file: Path, tokenizer: Any) -> None:
    """Raises ValueError if tokenizer.json was read as another kind of tokenizer because no tokenizer_config.json names
    its class. Warns if a class is named and transformers takes another, as for Qwen and Gemma."""
    if type(tokenizer).__name__ in ("TokenizersBackend", "PreTrainedTokenizerFast") or not tokenizer.is_fast:
        return  # read as it is, or not at all
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(file))
    own.no_truncation()
    size = own.get_vocab_size(with_added_tokens=False)
    text = own.decode(list(range(0, size, max(1, size // TRIED))))
    wanted = set(own.encode(text, add_special_tokens=False).ids)
    read = set(tokenizer(text, add_special_tokens=False)["input_ids"])
    if 2 * len(wanted & read) >= len(wanted):
        return
    said = f"{file} is read as a {type(tokenizer).__name__}, and gives other tokens than it tells"
    if not (file.with_name(TOLD).is_file() and read_object(file.with_name(TOLD)).get("tokenizer_class")):
        raise ValueError(f"{said}: {TOLD}, which names its class, is missing there or was changed. Get it again")
    warnings.warn(f"{said}: the model may be of another family than its tokenizer", stacklevel=2)


def _check_merges(file: Path, tokenizer: Any) -> None:
    """Raises ValueError if merges.txt makes too few of the words in vocab.json: it was cut. Warns if only a few are
    missing."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if tokenizer.is_fast else {}
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix"):
        return
    vocabulary, end = model["vocab"], model.get("end_of_word_suffix") or ""
    made = {"".join(merge) if isinstance(merge, list) else merge.replace(" ", "") for merge in model["merges"]}
    own = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    words = [word for word in vocabulary if len(word.removesuffix(end)) > 1 and word not in own]
    words = [word for word in words if word[0] + word[-1] not in ("<>", "[]")]  # special tokens that no file declares
    lost = [word for word in words if word not in made and _can_be_made(word, vocabulary)]
    if not lost:
        return
    said = f"{file} makes {len(lost)} of the {len(words)} words in vocab.json by no merge, such as {lost[-1]!r}"
    if len(lost) > MOST_LOST * len(words):
        raise ValueError(f"{said}: it is cut short. Get it again")
    warnings.warn(f"{said}: no text is given these, as if the file were cut", stacklevel=2)


def _can_be_made(word: str, vocabulary: dict[str, int]) -> bool:
    """Whether the word is two words of the vocabulary, joined."""
    return any(word[:place] in vocabulary and word[place:] in vocabulary for place in range(1, len(word)))


def _check_words(file: Path, tokenizer: Any) -> None:
    """Raises ValueError if vocab.txt has fewer words than the model was made for and ends within a line. Only warns if
    it ends with a whole line, because the model's matrix may have spare rows."""
    config = file.with_name(CONFIG)
    rows = read_object(config).get("vocab_size") if config.is_file() else None
    if not isinstance(rows, int) or len(tokenizer) >= rows:
        return
    said = f"{file} has {len(tokenizer)} words, and config.json says vocab_size {rows}"
    if not file.read_bytes().endswith(b"\n"):
        raise ValueError(f"{said}: it is cut short. Get it again")
    warnings.warn(f"{said}: if it was cut, get it again", stacklevel=2)


def check_whole_pieces(folder: Path) -> None:
    """Raises ValueError if a tokenizer is made from a sentencepiece file that ends among its pieces. Such a file reads
    as a smaller vocabulary, or with other rules, because the rules (fields 2 and 3) follow the pieces (field 1)."""
    if (folder / WHOLE).is_file():
        return
    for file in sorted(folder.glob("*.model")):
        fields = _fields(file.read_bytes())
        if fields is not None and 1 in fields and not {2, 3} <= fields:
            raise ValueError(
                f"{file} is cut short: what stands at the end of sentencepiece's file is missing. Get it again"
            )


def _fields(content: bytes) -> set[int] | None:
    """Numbers of the fields of a protobuf message; None if it is none, for example if it ends within a field."""
    found, at = set(), 0
    while at < len(content):
        key, at = _varint(content, at)
        size, at = _varint(content, at)
        if key % 8 != 2 or (at := at + size) > len(content):  # only fields with a length occur
            return None
        found.add(key // 8)
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The whole number at a place, seven bits a byte, and the place after it."""
    value = shift = 0
    while at < len(content):
        value, shift, at = value | (content[at] & 127) << shift, shift + 7, at + 1
        if content[at - 1] < 128:
            break
    return value, at


def _check_pieces(folder: Path, tokenizer: Any) -> None:
    """Raises ValueError if the folder holds only a sentencepiece file and it was read as another kind of tokenizer, the
    kind that its family uses: spaces and letters would be lost."""
    if not (folder / PIECES).is_file():
        return
    from sentencepiece import SentencePieceProcessor

    try:
        own = SentencePieceProcessor(str(folder / PIECES))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{folder / PIECES} cannot be read: {error} Get the file again") from error
    pieces = [
        id_ for id_ in range(own.vocab_size()) if not (own.is_control(id_) or own.is_unknown(id_) or own.is_byte(id_))
    ]
    text = own.decode(pieces[:TRIED])
    read, wanted = tokenizer(text, add_special_tokens=False)["input_ids"], own.encode(text)
    if len(set(read) ^ set(wanted)) > 2:  # families differ in whether a text begins with a space
        raise ValueError(
            f"{folder / PIECES} is read as a {type(tokenizer).__name__}, and gives other tokens than sentencepiece "
            "(spaces or letters are lost): save the tokenizer there (save_pretrained), as a tokenizer.json"
        )
