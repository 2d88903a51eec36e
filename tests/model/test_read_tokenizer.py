"""Tokenizers of folders: sentencepiece's file alone is enough, and none is made up where there is none."""

import json

import pytest
import sentencepiece
from transformers import AutoConfig

from lit_blip2.model.pretrained import read_tokenizer

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
