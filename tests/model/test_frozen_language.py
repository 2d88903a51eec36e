"""A frozen language model as LAVIS has it: with dropout, and T5 with another activation."""

import pytest
import torch
from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from lit_blip2.model.language import LanguageModel
from lit_blip2.model.pretrained import build, build_random, read_config, set_activation
from lit_blip2.settings import check_same, settings

OPT, T5 = "lit_blip2/mini/weights/opt", "lit_blip2/mini/weights/t5"
T5_SIZES = dict(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opt")
    sizes = dict(hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16)
    torch.manual_seed(0)
    ends = dict(pad_token_id=0, bos_token_id=1, eos_token_id=1)
    OPTForCausalLM(OPTConfig(vocab_size=64, dropout=0.5, **sizes, **ends)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(OPT).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(**T5_SIZES, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(T5).save_pretrained(folder)
    return str(folder)


def losses(language: LanguageModel) -> torch.Tensor:
    prefix_BPD = torch.randn(2, 3, language.width, generator=torch.Generator().manual_seed(0))
    return language.loss(prefix_BPD, language.tokenise(["", ""], ["a red circle", "a square"]))[0]


@pytest.mark.parametrize("wanted", [False, True])
def test_its_dropout_works_in_training_alone_and_where_it_is_asked_for(with_dropout, wanted):
    language = LanguageModel(with_dropout, dtype="float32", frozen_dropout=wanted)
    language.load()
    evaluated = losses(language.eval())
    torch.manual_seed(1)
    trained = losses(language.train())
    assert torch.equal(trained, evaluated) is not wanted
    assert torch.equal(losses(language.eval()), evaluated)
    assert not any(parameter.requires_grad for parameter in language.parameters())


def test_a_t5_with_gelu_is_transformers_own(gated):
    published, original = (
        LanguageModel(gated, dtype="float32"),
        LanguageModel(gated, dtype="float32", dense_act_fn="gelu"),
    )
    for language in (published, original):
        language.load()
    mine, others = losses(original), losses(published)
    theirs = T5ForConditionalGeneration.from_pretrained(gated)
    theirs.config.dense_act_fn = "gelu"
    reference = T5ForConditionalGeneration(theirs.config)
    reference.load_state_dict(theirs.state_dict())
    original.model = reference.eval()
    torch.testing.assert_close(losses(original), mine, rtol=0, atol=2e-6)
    assert (mine - others).abs().max() > 2e-5, "the two activations could not be told apart"


def test_another_activation_goes_out_and_comes_in_with_the_model(gated, tmp_path):
    language = LanguageModel(gated, dtype="float32", dense_act_fn="gelu")
    language.load()
    language.model.save_pretrained(tmp_path)
    again = build(read_config(tmp_path), tmp_path, torch.float32)
    active = {type(part.act).__name__ for part in again.modules() if type(part).__name__ == "T5DenseGatedActDense"}
    assert again.config.dense_act_fn == "gelu" and active == {"GELUActivation"}


@pytest.mark.parametrize("family", ["t5", "mt5", "umt5", "longt5", "switch_transformers"])
@pytest.mark.parametrize("projection", ["relu", "gated-gelu"])
def test_every_family_after_t5_computes_with_the_activation_that_its_configuration_says(family, projection):
    config = T5_SIZES | {"model_type": family, "num_experts": 2, "feed_forward_proj": projection}
    model = build_random(config, torch.float32)
    ids_1T = torch.tensor([[5, 9, 3]])
    before_1TV = model(input_ids=ids_1T, decoder_input_ids=ids_1T).logits
    set_activation(model, "silu")
    own = build(model.config.to_dict(), device="cpu").eval()
    own.load_state_dict(model.state_dict())
    after_1TV, expected_1TV = (each(input_ids=ids_1T, decoder_input_ids=ids_1T).logits for each in (model, own))
    torch.testing.assert_close(after_1TV, expected_1TV, rtol=0, atol=1e-6)
    assert not torch.equal(after_1TV, before_1TV)


def test_an_activation_is_compared_and_must_be_one(gated):
    ours, theirs = LanguageModel(gated, dtype="float32", dense_act_fn="gelu"), LanguageModel(gated, dtype="float32")
    for language in (ours, theirs):
        language.load()
    with pytest.raises(ValueError, match="dense_act_fn gelu_new, here gelu"):
        check_same(settings(theirs), settings(ours), "X")
    with pytest.raises(ValueError, match=r"dense_act_fn='glue' is none of transformers' activations"):
        LanguageModel(gated, dense_act_fn="glue").load()
    with pytest.raises(ValueError, match="dense_act_fn='gelu' is for a T5, and this is a opt"):
        LanguageModel(OPT, dense_act_fn="gelu").load()
