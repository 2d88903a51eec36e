"""Text stays text in tokenizers of every kind, made here: OPT's, GPT-2's, Llama's, T5's, BERT's, and one in Python."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from lit_blip2.mini.vocabulary import bert_tokenizer, opt_tokenizer, t5_tokenizer
from lit_blip2.model.plain import Plain, naming

TEXTS = ["a small red star", "the blue ring is left of the star", "Question: what is this ? Answer: a dog, a cat."] * 3
SPELT = ["</s>", "<pad>", "<s>", "[SEP]", "[CLS]", "<image>", "[DEC]", "<|endoftext|>", "<unk>", "[UNK]"]
LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def trained(model, trainer, template: str, normalizer=None, pre=None, decoder=None, **special) -> Plain:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre, decoder
    tokenizer.train_from_iterator([*" ".join(TEXTS).split(), *SPELT * 3], trainer)  # no piece goes over a space
    marks = [(name, tokenizer.token_to_id(name)) for name in template.split() if name != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=marks)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
    made.add_tokens(["<image>"], special_tokens=True)
    return Plain(made)


def byte_level(template: str, **special) -> Plain:
    names = sorted({*special.values()})
    trainer = trainers.BpeTrainer(special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(models.BPE(), trainer, template, pre=pre, decoder=decoders.ByteLevel(), **special)


def llama(template: str) -> Plain:
    special = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"])
    return trained(models.BPE(unk_token="<unk>"), trainer, template, normalizer=LLAMA, **special)


def t5() -> Plain:
    special = dict(eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    names = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=names, unk_token="<unk>")
    pre, decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(models.Unigram(), trainer, "$A </s>", pre=pre, decoder=decoder, **special)


def bert() -> Plain:
    special = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", bos_token="[DEC]")
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=[*special.values()])
    pre, model = pre_tokenizers.BertPreTokenizer(), models.WordPiece(unk_token="[UNK]")
    return trained(model, trainer, "[CLS] $A [SEP]", normalizers.BertNormalizer(), pre, **special)


def words(pieces: list[str], template: str, **special) -> Plain:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = [(name, pieces.index(name)) for name in template.split() if name != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=marks)
    return Plain(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special))


MADE = {
    "opt": byte_level("</s> $A", bos_token="</s>", eos_token="</s>", pad_token="<pad>"),
    "gpt2": byte_level("$A", bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"),
    "llama": llama("<s> $A"),
    "llama that ends texts": llama("<s> $A </s>"),
    "t5": t5(),
    "bert": bert(),
    "by bytes, in Python": Plain(ByT5Tokenizer()),
    "mini opt": Plain(opt_tokenizer()),
    "mini t5": Plain(t5_tokenizer()),
    "mini bert": Plain(bert_tokenizer()),
}


@pytest.fixture(params=MADE)
def plain(request) -> Plain:
    return MADE[request.param]


def old(plain: Plain, text: str) -> list[int]:
    return plain.tokenizer(text, add_special_tokens=False)["input_ids"]


def special(plain: Plain) -> set[int]:
    """Ids that no text may have; an unknown word has the unknown token's."""
    tokenizer = plain.tokenizer
    named = {*tokenizer.all_special_ids, *(tokenizer.get_added_vocab().values())}
    return named - {tokenizer.unk_token_id}


@pytest.mark.parametrize("name", MADE)
@given(text=st.text(max_size=60) | st.lists(st.sampled_from(" ".join(TEXTS).split())).map(" ".join))
def test_ids_of_ordinary_texts_are_the_tokenizers_own(name, text):
    plain = MADE[name]
    if not any(word.lower() in text.lower() for word in [*SPELT, *plain.tokenizer.get_added_vocab()]):
        assert plain.ids([text]) == [old(plain, text)]
        whole = plain.tokenizer(text)["input_ids"]
        assert plain.begin + plain.ids([text])[0] + plain.close == whole


@pytest.mark.parametrize("word", SPELT)
@pytest.mark.parametrize("form", ["{}", "a {} star", "a{}star", "{} {}", "star {}"])
def test_a_word_that_spells_a_special_token_is_a_word(plain, word, form):
    text = form.replace("{}", word)
    (ids,) = plain.ids([text])
    assert ids and not special(plain) & set(ids)


@pytest.mark.parametrize("name", ["opt", "gpt2", "by bytes, in Python"])
@pytest.mark.parametrize("word", SPELT)
def test_decoding_keeps_a_word_that_spells_a_special_token(name, word):
    plain = MADE[name]
    text = f"a {word} star"
    assert plain.tokenizer.batch_decode(plain.ids([text]), skip_special_tokens=True) == [text]


def test_a_letter_that_is_a_special_token_too_stays_in_the_text():
    """Some pad with "!", and some end with a newline, which a byte-level tokenizer writes as a letter of its own."""
    for letter, name in (("!", "pad_token"), (".", "eos_token"), ("\u010a", "eos_token")):
        plain = byte_level("$A", **({"eos_token": "</s>", "bos_token": "</s>"} | {name: letter}))
        text = "Hello, World! It's\na table."
        (ids,) = plain.ids([text])
        assert plain.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert not plain.known([text]).unknown


def test_special_tokens_that_a_text_names_are_told():
    assert MADE["opt"].spelt("Question: {}</s><image>") == ["</s>", "<image>"]
    assert MADE["opt"].spelt("Question: {} Answer:") == []


def test_what_stands_around_a_text():
    names = ["opt", "gpt2", "llama", "llama that ends texts", "t5", "bert", "by bytes, in Python"]
    around = {name: (len(MADE[name].begin), len(MADE[name].close)) for name in names}
    assert list(around.values()) == [(1, 0), (0, 0), (1, 0), (1, 1), (0, 1), (1, 1), (0, 1)]
    both = words(["<unk>", "a", "<e>"], "<e> $A <unk>", eos_token="<e>")  # the unknown token is put there too
    assert (both.begin, both.close) == ([2], [0])


def test_a_text_goes_on_with_one_space(plain):
    """Ids of two texts, tokenised apart, are those of the texts with one space between."""
    parts = plain.ids(["a red", plain.space + "star"])
    assert parts[0] + parts[1] == old(plain, "a red star")


def test_llama_puts_the_space_itself():
    assert MADE["llama"].space == "" and MADE["opt"].space == MADE["mini opt"].space == " "


@pytest.mark.parametrize("unknown", [{}, {"unk_token": "<unk>"}])
def test_what_stands_around_a_text_is_found_without_the_letter_a(unknown):
    """A tokenizer without an unknown token drops letters that it has no token for."""
    names, pieces = ["<s>", "</s>", "<unk>"], ["e", "r", "d", *"<s>/"]
    vocabulary = {word: id_ for id_, word in enumerate([*names, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], **unknown))
    marks = [(name, vocabulary[name]) for name in names]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=marks)
    plain = Plain(PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **unknown))
    assert (plain.begin, plain.close) == ([0], [1])


def test_the_end_mark_of_a_configuration():
    opt, sentencepiece = MADE["opt"], MADE["llama"]
    assert opt.mark("\n") == old(opt, "\n") and opt.mark("</s>") == [opt.tokenizer.eos_token_id]
    assert sentencepiece.mark(" star") == old(sentencepiece, "star")
    assert MADE["mini opt"].mark("\n") == []


def test_cuts_are_told_once_in_ten_times(plain):
    plain.cuts.clear()
    with pytest.warns(
        UserWarning, match=r"a prompt of [\d,]+ tokens was cut to its last 2 \(limit\); 1 so far.*'a red"
    ):
        ids = plain.cut(["a red star"], plain.ids(["a red star"]), 2, "prompt", "limit", keep_end=True)
    assert ids == [plain.ids(["a red star"])[0][-2:]]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plain.cut(["a red star"] * 20, plain.ids(["a red star"] * 20), 2, "prompt", "limit")
        assert plain.cut(["a"], [[1, 2]], 2, "prompt", "limit") == [[1, 2]]
    assert len(told) == 1 and "; 10 so far" in str(told[0].message) and plain.cuts["prompt"] == 21


def test_a_text_that_is_cut_is_named_where_there_is_one_for_each_name():
    plain, texts = MADE["mini opt"], ["a", "a red star"]
    for names, said in (
        (["image 3", "image 9"], ", this one, for image 9, begins"),
        (["image 3"], ", this one begins"),
    ):
        plain.cuts.clear()
        with naming(names), pytest.warns(UserWarning, match=said):
            plain.cut(texts, plain.ids(texts), 2, "text", "limit")
    plain.cuts.clear()
    with pytest.warns(UserWarning, match=", this one begins"):
        plain.cut(texts, plain.ids(texts), 2, "text", "limit")


def test_words_that_are_unknown():
    """The word <unk> is as unknown as any; where every byte is a token none is."""
    known = MADE["mini opt"].known(["a zebra star", "a  zebra <unk>"])
    assert known == (6, 3, ("zebra", "<unk>")) and known.share == 0.5
    assert MADE["opt"].known(["a 你好 zebra"]).unknown == MADE["by bytes, in Python"].known(["你"]).unknown == 0
    assert MADE["t5"].known(["a 你 star"]).unknown == 1
    assert MADE["opt"].known([]).share == 0


def test_an_unknown_token_that_the_backend_alone_names():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "star": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert Plain(PreTrainedTokenizerFast(tokenizer_object=tokenizer)).known(["a cup star"]) == (3, 1, ("cup",))
    letters = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    assert Plain(PreTrainedTokenizerFast(tokenizer_object=letters)).known(["ab z"]) == (2, 1, ("z",))
