"""Word-level tokenizers over the words of the mini-world, in the form of OPT's, T5's and BERT's."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lit_blip2.mini.grammar import words

LM_SPECIAL = ("<pad>", "</s>", "<unk>")
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]")
PROMPT_WORDS = ("Question:", "Answer:", "Short", "answer:", "photo")


def _word_level(vocabulary: tuple[str, ...], unknown: str) -> Tokenizer:
    ids = {word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    # Commas and question marks are words, however they are spaced; "Question:" stays whole.
    marks = pre_tokenizers.Split(Regex("[,?]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    return tokenizer


def _lm_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """The language models' words, the same ids for both; `template` puts `</s>` to a text A and a pair A, B."""
    tokenizer = _word_level((*LM_SPECIAL, *PROMPT_WORDS, *words()), "<unk>")
    end = ("</s>", tokenizer.token_to_id("</s>"))
    pair = f"{template} {template.replace('$A', '$B')}"
    tokenizer.post_processor = processors.TemplateProcessing(template, pair, [end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def opt_tokenizer() -> PreTrainedTokenizerFast:
    """OPT's habits: `</s>` is put in front of every text, and is the end mark too."""
    return _lm_tokenizer("</s> $A")


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """T5's habits: every text is closed by `</s>`, nothing stands in front, and the decoder starts from pad, id 0."""
    return _lm_tokenizer("$A </s>")


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's habits: lower case, [CLS] in front, [SEP] at the end, pad id 0; [DEC] opens ITG's texts."""
    tokenizer = _word_level((*BERT_SPECIAL, "photo", *words()), "[UNK]")
    tokenizer.normalizer = normalizers.Lowercase()
    marks = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:0 [SEP]:0", marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        additional_special_tokens=["[DEC]"],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_bert_tokenizer(folder: Path) -> None:
    bert_tokenizer().save_pretrained(folder)
