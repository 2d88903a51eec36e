"""Tokenizers of folders: sentencepiece's file alone is enough, and none is made up where there is none."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoConfig

from lit_blip2.contents import DataError
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.plain import Plain
from lit_blip2.model.pretrained import read_tokenizer, tell_no_begin

LINES = [f"the {colour} {thing} is on a table" for colour in ("red", "green") for thing in ("dog", "cat", "cup", "box")]


@pytest.mark.parametrize("family, file", [("llama", "tokenizer.model"), ("t5", "spiece.model")])
def test_a_folder_with_sentencepieces_file_alone(family, file, tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(LINES), encoding="utf-8")
    made = tmp_path / "made"
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "lines.txt"), model_prefix=str(made), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    folder = tmp_path / family
    AutoConfig.for_model(family).save_pretrained(folder)
    made.with_suffix(".model").rename(folder / file)
    named = {"llama": "LlamaTokenizer", "t5": "T5Tokenizer"}[family]
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}), encoding="utf-8")
    wanted = sentencepiece.SentencePieceProcessor(model_file=str(folder / file)).encode("the red dog")
    ids = read_tokenizer(folder)("the red dog", add_special_tokens=False)["input_ids"]
    assert ids == wanted


@pytest.mark.parametrize("family", ["opt", "t5", "llama", "gpt2", "qwen2", "gemma2"])
def test_a_folder_without_a_tokenizer_gets_no_empty_one(family, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no tokenizer that can be read: save one there \(save_pretrained\)"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "opt", "gpt2"])
def test_sentencepieces_file_that_is_read_as_another_kind_is_refused(family, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(tmp_path / "tokenizer"), vocab_size=25, minloglevel=2
    )
    with pytest.raises(ValueError, match=r"tokenizer\.model is read as a .*Tokenizer.*: save the tokenizer there"):
        read_tokenizer(tmp_path)


def test_a_file_of_another_kind_is_no_sentencepiece(tmp_path):
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"no tokenizer that can be read: .*tokenizer\.model is no file of sentence"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("family, file", [("llama", "tokenizer.model"), ("t5", "spiece.model")])
@pytest.mark.parametrize("how", [dict(model_type="bpe", byte_fallback=True, vocab_size=300), dict(vocab_size=40)])
def test_a_file_of_sentencepiece_that_is_cut_short_is_named(family, file, how, tmp_path):
    """Between two pieces it can be read, as a smaller vocabulary."""
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    made = tmp_path / "made"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(made), hard_vocab_limit=False, minloglevel=2, **how
    )
    content, ends = made.with_suffix(".model").read_bytes(), [0]
    for _ in range(20):
        ends.append(ends[-1] + 2 + content[ends[-1] + 1])
    for end in (ends[9], ends[9] + 1, ends[20]):
        (tmp_path / file).write_bytes(content[:end])
        with pytest.raises(ValueError, match=rf"{tmp_path}.*{file} is .*cut short"):
            read_tokenizer(tmp_path)
    (tmp_path / file).write_bytes(content)
    named = {"llama": "LlamaTokenizer", "t5": "T5Tokenizer"}[family]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    assert read_tokenizer(tmp_path)("the red dog")["input_ids"]


def written(folder: Path, family: str, told: dict | None) -> Path:
    """A folder of config.json and the family's files of pieces, without tokenizer.json."""
    AutoConfig.for_model(family).save_pretrained(folder)
    if told is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    if family in ("opt", "gpt2"):
        pieces = ["<|endoftext|>", "a", "b", "Ġ", "ab"]
        (folder / "vocab.json").write_text(json.dumps({piece: id_ for id_, piece in enumerate(pieces)}))
        (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    else:
        name = "spiece" if family == "t5" else "tokenizer"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES),
            model_prefix=str(folder / name),
            vocab_size=30,
            minloglevel=2,
            model_type="bpe",
        )
    return folder


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
@pytest.mark.parametrize("told", [None, {}, {"add_bos_token": True}, {"add_bos_token": False}])
def test_texts_without_a_begin_token_are_told_where_no_file_speaks_of_it(family, told, tmp_path):
    folder = written(tmp_path, family, told)
    tokenizer = read_tokenizer(folder)
    begins = tokenizer("ab")["input_ids"][0] == tokenizer.bos_token_id
    assert begins == bool(told and told["add_bos_token"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        tell_no_begin(folder, family, tokenizer)
    assert len(seen) == (not told)
    if seen:
        said = str(seen[0].message)
        assert '"add_bos_token": true' in said and str(folder / "tokenizer_config.json") in said and "\n" not in said


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_families_without_a_begin_token_are_not_told_of_it(family, tmp_path):
    folder = written(tmp_path, family, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_no_begin(folder, family, read_tokenizer(folder))


def test_a_language_model_tells_of_a_missing_begin_token(tmp_path):
    with pytest.warns(UserWarning, match="no text starts with the begin token <s>, which llama models are mostly"):
        LanguageModel(str(written(tmp_path, "llama", None))).load_tokenizer()


def test_a_generation_config_that_is_a_pointer_is_named(tmp_path):
    """transformers passes over it."""
    shutil.copytree("lit_blip2/mini/weights/opt", tmp_path / "opt")
    (tmp_path / "opt/generation_config.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")
    with pytest.raises(ValueError, match=r"generation_config\.json is a pointer of Git LFS and not .* git lfs pull"):
        LanguageModel(str(tmp_path / "opt")).load()


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ValueError, match=r"tokenizer\.model is a pointer of Git LFS and not .* git lfs pull"):
        read_tokenizer(tmp_path)


def test_rules_that_a_tokenizer_gives_up_on_are_an_error_with_its_folder(tmp_path):
    """What Rust raises there is no Exception: it would go through every handler of a command."""
    folder = tmp_path / "bert"
    shutil.copytree("lit_blip2/mini/weights/bert", folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    plain = Plain(read_tokenizer(folder))
    with pytest.raises(DataError, match=rf"the tokenizer of {folder} gives up on a text, its rules cannot be followed"):
        plain.ids(["a" * 40 + "b"])
