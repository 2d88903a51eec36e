"""Published sizes are what timm and transformers build, and a folder given for a published name is of that model."""

import json

import pytest
from transformers import AutoConfig

from lit_blip2.model.language import LanguageModel
from lit_blip2.model.publish import refresh
from lit_blip2.model.published import published


def test_sizes_are_those_of_the_built_models():
    assert refresh() == published()


def folder_of(tmp_path, name, whole=True, **other) -> str:
    """A folder with the configuration of a published model, as it is or as save_pretrained leaves out defaults."""
    config = published()[name]["config"] | other
    made = AutoConfig.for_model(**config)
    (tmp_path / "given").mkdir()
    text = json.dumps(config) if whole else made.to_json_string(use_diff=True)
    (tmp_path / "given/config.json").write_text(text)
    return str(tmp_path / "given")


@pytest.mark.parametrize(
    ("name", "given", "other", "said"),
    [
        ("facebook/opt-6.7b", "lmsys/vicuna-7b-v1.1", {}, "model_type llama, there opt"),
        ("lmsys/vicuna-7b-v1.1", "facebook/opt-6.7b", {}, "model_type opt, there llama"),
        ("facebook/opt-2.7b", "facebook/opt-6.7b", {}, "hidden_size 4096, there 2560"),
        ("google/flan-t5-xl", "google/flan-t5-xxl", {}, "d_model 4096, there 2048"),
        ("facebook/opt-125m", "facebook/opt-125m", {"num_attention_heads": 6}, "num_attention_heads 6, there 12"),
        ("facebook/opt-125m", "facebook/opt-125m", {"num_hidden_layers": 6}, "num_hidden_layers 6, there 12"),
        ("facebook/opt-125m", "facebook/opt-125m", {"vocab_size": 50000}, "vocab_size 50000, there 50272"),
        ("lmsys/vicuna-7b-v1.1", "lmsys/vicuna-7b-v1.1", {"vocab_size": 49953}, "vocab_size 49953, there 32000"),
    ],
)
def test_another_models_folder_is_refused_by_name(tmp_path, name, given, other, said):
    folder = folder_of(tmp_path, given, **other)
    with pytest.raises(ValueError, match=f"{folder}/config.json is not of language model {name}: .*{said}"):
        LanguageModel(name, weights=folder)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", [name for name, card in published().items() if card["kind"] == "language"])
def test_a_published_models_own_folder_is_taken(tmp_path, name, whole):
    assert LanguageModel(name, weights=folder_of(tmp_path, name, whole)).width == published()[name]["width"]


@pytest.mark.parametrize("other", [{"vocab_size": 32001}, {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}])
def test_a_fine_tuned_folder_of_the_same_sizes_is_taken(tmp_path, other):
    LanguageModel("lmsys/vicuna-7b-v1.1", weights=folder_of(tmp_path, "lmsys/vicuna-7b-v1.1", **other))


def test_a_folder_as_a_name_is_its_own_affair(tmp_path):
    assert LanguageModel(folder_of(tmp_path, "facebook/opt-125m", num_attention_heads=6)).width == 768


def test_a_folder_that_comes_later_is_looked_at_when_it_is_read(tmp_path):
    language = LanguageModel("facebook/opt-2.7b", weights=str(tmp_path / "given"))
    folder_of(tmp_path, "lmsys/vicuna-7b-v1.1")
    with pytest.raises(ValueError, match="model_type llama, there opt"):
        language.load()
