"""Words of which a tokenizer drops letters are unknown to it; words that it spells in its own way are known."""

import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, ByT5Tokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from lit_blip2.mini.grammar import words
from lit_blip2.mini.vocabulary import bert_tokenizer, opt_tokenizer, t5_tokenizer
from lit_blip2.model.plain import Plain
from lit_blip2.model.pretrained import read_tokenizer

TEXT = Path("README.md").read_text(encoding="utf-8")
FORMS = "Zebra's café cafe\u0301 İstanbul Straße ﬁn ½ x² 你好 🙂 don\u2019t co\u00adop 1,234.5"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def plain(tokenizer: Tokenizer, trainer=None, **special) -> Plain:
    if trainer is not None:
        tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return Plain(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


def byte_level(alphabet: list[str]) -> Plain:
    tokenizer = Tokenizer(models.BPE({letter: id_ for id_, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return plain(tokenizer)


def bert(lowercase: bool) -> Plain:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return plain(tokenizer, trainers.WordPieceTrainer(special_tokens=["[UNK]"]), unk_token="[UNK]")


def t5() -> Plain:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=["<unk>"], unk_token="<unk>")
    return plain(tokenizer, trainer, unk_token="<unk>")


def clip() -> Plain:
    """Splits by a rule that throws away what stands between, marks ends of words, and reads lower case."""
    letters = [*ALPHABET, *(f"{letter}</w>" for letter in ALPHABET), "<|startoftext|>", "<|endoftext|>"]
    return Plain(CLIPTokenizer(vocab={letter: id_ for id_, letter in enumerate(letters)}, merges=[]))


def llama(folder: Path, bytes_too: bool, words_read: list[str]) -> Plain:
    """As transformers reads sentencepiece's file for the class that tokenizer_config.json names."""
    AutoConfig.for_model("llama").save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}), encoding="utf-8")
    how = {"model_type": "bpe", "vocab_size": 600 if bytes_too else 300, "byte_fallback": bytes_too}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words_read),
        model_prefix=str(folder / "tokenizer"),
        minloglevel=2,
        hard_vocab_limit=False,
        **how,
    )
    return Plain(read_tokenizer(folder))


EVERY_BYTE = {
    "bytes": lambda _: byte_level(ALPHABET),
    "clip": lambda _: clip(),
    "llama": lambda folder: llama(folder, bytes_too=True, words_read=TEXT.split()),
    "Python": lambda _: Plain(ByT5Tokenizer()),
}


@pytest.mark.parametrize("name", EVERY_BYTE)
def test_a_tokenizer_of_every_byte_knows_every_word(name, tmp_path):
    made = EVERY_BYTE[name](tmp_path)
    made.tokenizer.add_tokens(["Zebra", "<0x41>"])
    made = Plain(made.tokenizer)
    assert made.known([TEXT, FORMS, "<0x41> <0xE4>b ▁a Ġa a</w> ##a"]).examples == ()


@pytest.mark.parametrize("made", [bert(True), bert(False), t5()], ids=["bert", "bert with case", "t5"])
def test_a_tokenizer_knows_the_words_that_it_was_trained_on(made):
    assert made.known([TEXT]).examples == ()


def test_lower_case_without_accents_is_no_loss():
    assert bert(True).known(["ZEBRA CafÉ cafe\u0301 İstanbul co\u00adop"]).examples == ()


@pytest.mark.parametrize("make", [bert_tokenizer, opt_tokenizer, t5_tokenizer])
def test_the_mini_world_has_no_unknown_word(make):
    assert Plain(make()).known([" ".join(words()), "a red star, a blue ring?"]).unknown == 0


def test_letters_without_a_piece_of_sentencepieces_model(tmp_path):
    made = llama(tmp_path, bytes_too=False, words_read=["the", "dog", "A", "red", "table"] * 9)
    assert made.tokenizer.convert_ids_to_tokens(made.ids(["ZEBRA"])[0]) == ["▁A"]
    assert made.known(["the ZEBRA dog", "reZd"]) == (4, 2, ("ZEBRA", "reZd"))


def test_bytes_without_a_token():
    made = byte_level([*"abcdefghijklmnopqrstuvwxyz", "Ã", "Ġ"])
    assert made.ids(["zebrA", "café"]) == [made.ids(["zebr"])[0], made.ids(["caf"])[0] + [26]]
    assert made.known(["zebra zebrA café"]) == (3, 2, ("zebrA", "café"))


@pytest.mark.parametrize(
    "normalizer, splitter",
    [
        (None, pre_tokenizers.Split(Regex("[a-z]+"), "removed", invert=True)),
        (normalizers.Replace(Regex("[^a-z ]"), ""), pre_tokenizers.WhitespaceSplit()),
    ],
)
def test_letters_that_never_reach_the_model(normalizer, splitter):
    vocabulary = {word: id_ for id_, word in enumerate(["<unk>", "ebra", "zebra"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer or normalizers.NFC(), splitter
    made = plain(tokenizer, unk_token="<unk>")
    assert made.known(["Zebra zebra zebra, zebra!"]) == (4, 1, ("Zebra",))
