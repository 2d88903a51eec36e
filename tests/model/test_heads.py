"""Whatever a family does around its head, or to what it embeds, its logits here are its own, or it is refused."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from lit_blip2.model.language import LanguageModel
from lit_blip2.model.pretrained import read_config
from lit_blip2.model.probe import check_embeddings, why_no_answers
from tests.model.test_language import LLAMA, SMALL, word_tokenizer

BART = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24, decoder_ffn_dim=24,
            encoder_attention_heads=2, decoder_attention_heads=2, decoder_start_token_id=1)  # fmt: skip
BLOOM = dict(hidden_size=16, n_layer=2, n_head=2)
PHI = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)  # its head has a bias
DECODER = PHI | {"is_decoder": True}
OPT = dict(hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
           word_embed_proj_dim=12)  # fmt: skip
MUP = dict(logits_scaling=3.0, embedding_multiplier=2.0, residual_multiplier=0.5)
FALCON = dict(mamba_d_ssm=16, mamba_n_heads=2, mamba_d_head=8, mamba_d_state=4, lm_head_multiplier=0.3)


def tiny(family: str, seed: int = 0, **sizes):
    config = AutoConfig.for_model(family, **SMALL, **sizes)
    torch.manual_seed(seed)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_()
    return model


@pytest.mark.parametrize(
    "family, sizes",
    [
        ("hyperclovax", LLAMA | MUP),
        ("granite", LLAMA | MUP),
        ("bart", BART),
        ("bloom", BLOOM),
        ("phi", PHI),
        ("gpt_neox", PHI),
    ],
)
def test_logits_are_the_models_own(family, sizes, tmp_path):
    theirs = tiny(family, **sizes)
    theirs.save_pretrained(tmp_path)
    word_tokenizer(theirs.config.is_encoder_decoder).save_pretrained(tmp_path)
    language = LanguageModel(str(tmp_path), dtype="float32")
    language.load()
    language.tokenizer = word_tokenizer(theirs.config.is_encoder_decoder)
    prefix_BPD = torch.randn(2, 3, language.width)
    text = language.tokenise(["w1 w2", "w3 w4 w5"], ["w6 w7 w8", "w9"])
    logits_LV, row_L = language.logits(prefix_BPD, text)
    embeds_BSD = torch.cat([prefix_BPD, theirs.get_input_embeddings()(text.inputs.padded())], dim=1)
    mask_BS = torch.cat([torch.ones(2, 3, dtype=torch.long), text.inputs.valid_BT.long()], dim=1)
    for row in range(2):
        inputs = {"inputs_embeds": embeds_BSD[row : row + 1, mask_BS[row] > 0], "use_cache": False}
        target_T = text.target_L[row_L == row]
        if theirs.config.is_encoder_decoder:
            start = theirs.config.decoder_start_token_id
            inputs["decoder_input_ids"] = torch.tensor([[start, *target_T[:-1].tolist()]])
            wanted_TV = theirs(**inputs).logits[0]
        else:
            wanted_TV = theirs(**inputs).logits[0, -len(target_T) - 1 : -1]
        torch.testing.assert_close(logits_LV[row_L == row], wanted_TV, atol=1e-5, rtol=1e-5)


def test_a_family_that_scales_what_it_looks_up_is_refused():
    model = tiny("falcon_h1", embedding_multiplier=3.0, **LLAMA, **FALCON)
    with pytest.raises(ValueError, match=r"mine \(falcon_h1\) makes other logits .* use another family"):
        check_embeddings(model, "mine")
    check_embeddings(tiny("falcon_h1", embedding_multiplier=1.0, **LLAMA, **FALCON), "mine")


def test_a_family_that_reads_nothing_but_its_own_embeddings_is_refused():
    sizes = LLAMA | dict(vocab_size_per_layer_input=33, hidden_size_per_layer_input=4, num_kv_shared_layers=0)
    with pytest.raises(ValueError, match=r"mine \(gemma4_text\) takes no input embeddings: RuntimeError"):
        check_embeddings(tiny("gemma4_text", **sizes, head_dim=8), "mine")


def test_an_encoder_decoder_that_starts_from_nothing_is_refused():
    model = tiny("bart", **BART)
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match=r"mine \(bart\) .* set decoder_start_token_id in its config.json"):
        check_embeddings(model, "mine")


def test_families_whose_generation_is_right_are_taken():
    for family, sizes in (("opt", OPT), ("gpt_neox", PHI), ("bloom", BLOOM), ("bart", BART), ("electra", DECODER)):
        model = tiny(family, **sizes)
        assert why_no_answers(model, "mine") is None
        assert why_no_answers(model.bfloat16(), "mine") is None, family


def test_families_that_count_positions_whatever_is_padding_give_no_answers():
    """BART's decoder counts the padding; RoBERTa counts from 2, and transformers' generate from 0."""
    for family, sizes in (("bart", BART | {"is_decoder": True, "is_encoder_decoder": False}), ("roberta", DECODER)):
        reason = why_no_answers(tiny(family, **sizes), "mine")
        assert f"mine ({family}) can be trained" in reason and "reads the padding or counts positions" in reason


def test_a_family_that_cannot_generate_after_embeddings_is_told_and_can_be_trained(tmp_path):
    model = tiny("falcon_h1", embedding_multiplier=1.0, **LLAMA, **FALCON)
    model.save_pretrained(tmp_path)
    word_tokenizer(False).save_pretrained(tmp_path)
    language = LanguageModel(str(tmp_path), dtype="float32")
    words = r"\(falcon_h1\) can be trained, .* transformers cannot generate from embeddings with it"
    with pytest.warns(UserWarning, match=words):
        language.load()
    language.tokenizer, prefix_BPD = word_tokenizer(False), torch.randn(1, 3, language.width)
    assert language.loss(prefix_BPD, language.tokenise(["w1"], ["w2"]))[0].isfinite().all()
    with pytest.raises(ValueError, match=words):
        language.generate(prefix_BPD, ["w1"])


def test_the_padding_tokens_own_place_refuses_nobody():
    """BART-like families count positions by what is no padding."""
    check_embeddings(tiny("roberta", **DECODER), "mine")


def test_an_encoder_that_sees_its_targets_is_refused():
    for family in ("roberta", "electra", "bert-generation"):
        model = tiny(family, **PHI, is_decoder=False)
        with pytest.raises(ValueError, match=rf"mine \({family}\) sees the tokens that it is to predict"):
            check_embeddings(model, "mine")


def test_a_family_without_a_padding_token_is_read():
    model = tiny("gpt_neox", **PHI)
    del model.config.pad_token_id
    check_embeddings(model, "mine")


def test_numbers_that_json_has_no_word_for_are_read(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"limits": [0.0, {"__float__": "Infinity"}], "low": {"__float__": "-Infinity"}}))
    assert read_config(tmp_path) == {"limits": [0.0, float("inf")], "low": float("-inf")}
    file.write_text('{"limits": [')
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_config(tmp_path)
