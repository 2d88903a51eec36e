"""Files of a tokenizer that were cut, or are missing, are named; those that are right are read."""

import json
import shutil
import warnings

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig

from lit_blip2.model.pretrained import read_tokenizer
from tests.model.test_side_files import tell

LINES = [
    f"a {colour} {thing} above the {other} square"
    for colour in ("red", "blue")
    for thing in ("circle", "triangle")
    for other in ("green", "grey")
]
TEXT = "a red circle above the green square"


def byte_pairs(folder, family, told):
    """As GPT-2's and OPT's folders on the Hub: vocab.json in another order than the merges, and merges.txt."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>"] if family == "gpt2" else ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=specials, initial_alphabet=alphabet)
    made.train_from_iterator(LINES, trainer)
    AutoConfig.for_model(family).save_pretrained(folder)
    made.model.save(str(folder))
    words = json.loads((folder / "vocab.json").read_text())
    if family == "opt":
        words |= {f"madeupword000{number}": len(words) + number for number in range(3)}
    (folder / "vocab.json").write_text(json.dumps(words))
    if told is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


GPT2 = {"model_max_length": 1024}
OPT = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
OPT |= {"pad_token": "<pad>", "add_bos_token": True, "errors": "replace"}
PAIRS = [("gpt2", None), ("gpt2", GPT2), ("opt", OPT)]


@pytest.mark.parametrize(("family", "told"), PAIRS)
def test_merges_that_are_whole_are_read_without_a_word(tmp_path, family, told):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = read_tokenizer(byte_pairs(tmp_path, family, told))
    assert len(tokenizer(TEXT, add_special_tokens=False)["input_ids"]) == 7


@pytest.mark.parametrize(("family", "told"), PAIRS)
@pytest.mark.parametrize("part", [0.97, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("at_a_line", [True, False])
def test_merges_that_were_cut_are_refused(tmp_path, family, told, part, at_a_line):
    file = byte_pairs(tmp_path, family, told) / "merges.txt"
    kept = file.read_bytes()[: int(file.stat().st_size * part)]
    file.write_bytes(kept[: kept.rfind(b"\n") + 1] if at_a_line else kept)
    with pytest.raises(ValueError, match=r"merges\.txt makes \d+ of .* cut short|holds no tokenizer that can be read"):
        read_tokenizer(tmp_path)


def test_few_words_without_a_merge_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_blip2.model.tokenizer_files.MOST_LOST", 0.1)
    folder = byte_pairs(tmp_path, "gpt2", GPT2)
    words = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(words | {"Ġredb": len(words)}))
    with pytest.warns(UserWarning, match=r"merges\.txt makes 1 of .*, such as 'Ġredb': no text is given these"):
        read_tokenizer(folder)


def bert(folder, rows=0):
    """As BERT's folder on the Hub without tokenizer.json: vocab.txt."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for line in LINES for word in line.split()})]
    AutoConfig.for_model("bert", vocab_size=len(words) + rows).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.mark.parametrize("end", ["\n", ""])
def test_words_that_are_whole_are_read_without_a_word(tmp_path, end):
    file = bert(tmp_path) / "vocab.txt"
    file.write_text(file.read_text().rstrip() + end)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_tokenizer(tmp_path)(TEXT)["input_ids"]) == 9


def test_words_that_were_cut_are_refused(tmp_path):
    file = bert(tmp_path) / "vocab.txt"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"vocab\.txt has 14 words, and config\.json says vocab_size 15: it is cut"):
        read_tokenizer(tmp_path)


def test_fewer_words_than_a_matrix_has_rows_are_told(tmp_path):
    with pytest.warns(
        UserWarning, match=r"vocab\.txt has 15 words, and config\.json says vocab_size 18: if it was cut"
    ):
        read_tokenizer(bert(tmp_path, rows=3))


@pytest.mark.parametrize("told", ["{}", '{"model_max_length": 512}', None])
def test_a_tokenizer_json_that_is_read_as_another_kind_is_refused(tmp_path, told):
    """By its family alone its words would all be the unknown one."""
    folder = shutil.copytree("lit_blip2/mini/weights/opt", tmp_path / "opt")
    (folder / "tokenizer_config.json").unlink()
    if told is not None:
        (folder / "tokenizer_config.json").write_text(told)
    with pytest.raises(ValueError, match=r"tokenizer\.json is read as a \w+, and gives other tokens .* missing"):
        read_tokenizer(folder)


def test_a_class_that_transformers_takes_in_the_place_of_the_one_that_is_named_is_told(tmp_path):
    folder = shutil.copytree("lit_blip2/mini/weights/opt", tmp_path / "opt")
    tell(folder / "config.json", model_type="qwen2")
    with pytest.warns(UserWarning, match=r"tokenizer\.json is read as a Qwen2Tokenizer, and gives other tokens"):
        read_tokenizer(folder)


def whole(folder, family, model, trainer, pre_tokenizer, decoder, normalizer=None):
    """As a folder on the Hub with tokenizer.json, and no tokenizer_config.json that tells its class."""
    made = Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoder
    if normalizer is not None:
        made.normalizer = normalizer
    made.train_from_iterator(LINES, trainer)
    AutoConfig.for_model(family).save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    return made


@pytest.mark.parametrize("family", ["gpt2", "opt", "bert", "t5", "llama", "qwen2"])
def test_a_tokenizer_json_of_the_familys_own_kind_is_read_without_a_word(tmp_path, family):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if family in ("gpt2", "opt", "qwen2"):
        trainer = trainers.BpeTrainer(
            vocab_size=340, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "</s>"]
        )
        given = models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif family == "bert":
        trainer = trainers.WordPieceTrainer(
            vocab_size=90, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        )
        lower = normalizers.BertNormalizer()
        given = (
            models.WordPiece(unk_token="[UNK]"),
            trainer,
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
            lower,
        )
    elif family == "t5":
        trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
        given = models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"])
        pre = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        given = models.BPE(unk_token="<unk>", fuse_unk=True), trainer, pre, decoders.Metaspace()
    own = whole(tmp_path, family, *given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = read_tokenizer(tmp_path)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == own.encode(TEXT, add_special_tokens=False).ids
