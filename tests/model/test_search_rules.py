"""Generation is what the arguments ask for: rules of search in a model's own configuration change nothing."""

import json

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, MBartConfig, MBartForConditionalGeneration

from lit_blip2.model.language import LanguageModel
from lit_blip2.settings import settings
from tests.model.test_language import SMALL, word_tokenizer

SIZES = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24, decoder_ffn_dim=24)
SIZES |= dict(encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=40, init_std=0.5)
RULES = dict(
    forced_bos_token_id=9, forced_eos_token_id=1, suppress_tokens=[*range(10, 20)], begin_suppress_tokens=[3, 4, 5],
    min_length=9, max_length=3, no_repeat_ngram_size=1, encoder_no_repeat_ngram_size=1, repetition_penalty=9.0,
    bad_words_ids=[[5], [6], [7]], num_beams=3, early_stopping=True, do_sample=True, top_k=2, temperature=5.0,
)  # fmt: skip


@pytest.fixture(params=[(BartConfig, BartForConditionalGeneration), (MBartConfig, MBartForConditionalGeneration)])
def folder(request, tmp_path):
    config_of, class_of = request.param
    torch.manual_seed(0)
    model = class_of(config_of(**SMALL, **SIZES, decoder_start_token_id=1, forced_eos_token_id=1))
    model.final_logits_bias[0, :3] = -100  # no answer ends by itself
    model.save_pretrained(tmp_path)
    word_tokenizer(encoder_decoder=True).save_pretrained(tmp_path)
    return tmp_path


def loaded(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(fields))
    language = LanguageModel(str(folder), dtype="float32")
    language.load()
    return language


@torch.no_grad()
def by_hand(language, prompt: str, tokens: int) -> str:
    """The likeliest token, one after another, in the forward that training has."""
    ids = language.tokenizer([prompt], return_tensors="pt")["input_ids"]
    made = [language.model.config.decoder_start_token_id]
    for _ in range(tokens):
        logits = language.model(input_ids=ids, decoder_input_ids=torch.tensor([made])).logits[0, -1]
        made.append(int(logits.argmax()))
    return language.tokenizer.decode(made[1:], skip_special_tokens=True)


def test_search_rules_of_a_configuration_change_no_answer(folder):
    asked = {"max_new_tokens": 6, "num_beams": 1}
    plain, prompts = loaded(folder), ["w1 w2 w3", "w4 w5", "w6"]
    answers = [plain.generate(None, [prompt], **asked)[0] for prompt in prompts]
    assert answers == [by_hand(plain, prompt, 6) for prompt in prompts]
    assert {len(answer.split()) for answer in answers} == {6}, "an answer ended before its last token"
    kept = settings(plain)
    ruled = loaded(folder, **RULES)
    assert [ruled.generate(None, [prompt], **asked)[0] for prompt in prompts] == answers
    assert {name for name in kept if kept[name] != settings(ruled).get(name)} == set()
