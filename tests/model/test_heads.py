"""Whatever a family does around its head, or to what it embeds, its logits here are its own, or it is refused."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from lit_blip2.model.language import LanguageModel
from lit_blip2.model.pretrained import check_embeddings, read_config
from tests.model.test_language import LLAMA, SMALL, word_tokenizer

BART = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24, decoder_ffn_dim=24,
            encoder_attention_heads=2, decoder_attention_heads=2, decoder_start_token_id=1)  # fmt: skip
BLOOM = dict(hidden_size=16, n_layer=2, n_head=2)
PHI = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)  # its head has a bias
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


def test_the_padding_tokens_own_place_refuses_nobody():
    """BART-like families count positions by what is no padding."""
    check_embeddings(tiny("roberta", **PHI, is_decoder=True), "mine")


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
