"""Language models of old files, which hold buffers, and of families that transformers saves under other names."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
)

from lit_blip2.commands.convert import main
from lit_blip2.exchange import hugging_face
from tests.exchange.tiny import OPT, randomise, rewritten, saved

WORDS = len(AutoTokenizer.from_pretrained(OPT)) + 1
SIZES = dict(vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)
LANGUAGES = {
    "llama": LlamaConfig(**SIZES, intermediate_size=24),
    "gpt2": GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=24),
    "mixtral": MixtralConfig(**SIZES, intermediate_size=24, num_key_value_heads=1, num_local_experts=2),
}
OLD = {
    "llama": {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "gpt2": {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64).tril(),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    },
}


@pytest.fixture
def folder(hf_config, tmp_path):
    def make(family: str):
        given = hf_config | {"text_config": LANGUAGES[family].to_dict(), "image_token_index": WORDS - 1}
        return saved(randomise(Blip2ForConditionalGeneration(Blip2Config(**given))), OPT, tmp_path / "hf")

    return make


@pytest.mark.parametrize("family", OLD)
def test_buffers_of_old_files_are_left_out_and_biases_are_not(folder, imported, tmp_path, family):
    old = {f"language_model.{key}": value for key, value in OLD[family].items()}
    positions = {"qformer.embeddings.position_ids": torch.arange(512)[None]}
    plain = folder(family)
    changed = rewritten(plain, tmp_path / "old", lambda state: state | old | positions)
    fate = hugging_face.read(changed).fate
    assert all(fate[key].startswith(("derived: ", "dropped: ")) for key in old | positions)
    written = load_file(imported(changed, "mini_opt") / "weights/language/model.safetensors")
    own = {key for key in load_file(plain / "model.safetensors") if key.startswith("language_model.")}
    assert {f"language_model.{key}" for key in written} == own


@pytest.mark.parametrize(
    "key", ["transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]
)
def test_what_is_no_buffer_is_not_left_out(folder, imported, tmp_path, key):
    """A parameter's bias has one dimension; a mask has four, and what stands for masked none."""
    changed = rewritten(folder("gpt2"), tmp_path / "odd", lambda s: s | {f"language_model.{key}": torch.ones(7)})
    with pytest.raises(ValueError, match=rf"net\.language\.model\.{key}"):
        imported(changed, "mini_opt")


@pytest.mark.parametrize(
    ("family", "name"), [("gpt_neox", "embed_out"), ("mixtral", r"block_sparse_moe\.experts\.0\.w1")]
)
def test_a_family_that_is_saved_under_other_names_is_said(folder, imported, family, name):
    with pytest.raises(ValueError, match=rf"saves language models of type {family} under other names .*{name}\.weight"):
        imported(folder(family), "mini_opt")


def test_positions_of_a_folder_are_counted(folder, tmp_path, capsys):
    odd = {"qformer.embeddings.position_ids": torch.arange(1, 513)}
    changed = rewritten(folder("gpt2"), tmp_path / "odd", lambda state: state | odd)
    assert main("import", [str(changed), "--from=hf", f"--out={tmp_path / 'x'}"]) == 2
    assert "qformer.embeddings.position_ids are not 0, 1, 2" in capsys.readouterr().err
