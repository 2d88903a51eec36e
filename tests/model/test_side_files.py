"""Files of a language model's folder name files of that folder alone."""

import json

import pytest
from safetensors.torch import load_file, save_file

from lit_blip2.contents import DataError
from lit_blip2.exchange.run import _forget_words
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.pretrained import read_tokenizer
from tests.model.test_language import FAMILIES, word_tokenizer


@pytest.fixture
def folder(tmp_path):
    """A sound one, whose weights are looked for by an index, and elsewhere weights and a tokenizer like its own."""
    place, elsewhere = tmp_path / "sent", tmp_path / "elsewhere"
    for each in (place, elsewhere):
        FAMILIES["opt"]().save_pretrained(each)
        word_tokenizer(False).save_pretrained(each)
    (elsewhere / "tokenizer.json").rename(elsewhere / "tokenizer.4.0.0.json")
    return place


def index(folder, path, kind="model.safetensors"):
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    content = {"metadata": {}, "weight_map": dict.fromkeys(held, path)}
    (folder / f"{kind}.index.json").write_text(json.dumps(content))
    return held


def tell(file, **fields):
    told = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(told | fields))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("path", ["../elsewhere/model.safetensors", "a/../../elsewhere/model.safetensors", None])
def test_an_index_names_no_weights_outside_of_its_folder(folder, kind, path):
    index(folder, path or str(folder.parent / "elsewhere/model.safetensors"), kind)
    with pytest.raises(DataError, match=rf"{kind}\.index\.json names '.*elsewhere.*: a file of this folder is meant"):
        LanguageModel(str(folder), dtype="float32").load()


def test_a_tokenizer_outside_of_the_folder_is_not_read(folder):
    tell(folder / "tokenizer_config.json", fast_tokenizer_files=["../elsewhere/tokenizer.4.0.0.json"])
    with pytest.raises(DataError, match=r"tokenizer_config\.json names '\.\./elsewhere.*: a file of this"):
        read_tokenizer(folder)


@pytest.mark.parametrize("field", ["transformers_weights", "configuration_files"])
def test_a_configuration_names_nothing_outside_of_its_folder(folder, field):
    path = "../elsewhere/config.4.0.0.json"
    tell(folder / "config.json", **{field: [path] if field.endswith("s") else path})
    with pytest.raises(DataError, match=r"config\.json names '\.\./elsewhere"):
        LanguageModel(str(folder), dtype="float32").load()


def test_another_configuration_of_the_folder_names_no_code(folder):
    """transformers reads it in the place of config.json."""
    (folder / "config.4.0.0.json").write_text((folder / "config.json").read_text())
    tell(folder / "config.4.0.0.json", attn_implementation="somebody/kernel")
    tell(folder / "config.json", configuration_files=["config.4.0.0.json"])
    with pytest.raises(ValueError, match="asks for attn_implementation='somebody/kernel'"):
        LanguageModel(str(folder), dtype="float32").load()


def test_links_of_the_user_and_of_the_hubs_cache_are_followed(folder, tmp_path):
    """A revision's folder holds links to ../../blobs; shards may lie in a folder below."""
    held = index(folder, "parts/1.safetensors")
    (tmp_path / "blobs").mkdir()
    save_file(held, tmp_path / "blobs/1", metadata={"format": "pt"})
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = file.rename(tmp_path / f"blobs/file {number}")
        file.symlink_to(f"../blobs/{blob.name}")
    (folder / "parts").mkdir()
    (folder / "parts/1.safetensors").symlink_to("../../blobs/1")
    language = LanguageModel(str(folder), dtype="float32")
    language.load()
    assert language.signature is not None and len(language.tokenizer) > 10


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": ["opt"]},
        {"activation_function": "evil.Net"},
        {"dtype": "__import__"},
        {"dtype": 3},
        {"hidden_size": "a"},
        {"num_attention_heads": 0},
        {"layer_types": 4},
        {"quantization_config": [1]},
    ],
)
def test_a_field_of_another_type_is_refused_by_its_file(folder, fields):
    tell(folder / "config.json", **fields)
    with pytest.raises(ValueError, match=r"sent/config\.json cannot be used: \w+ ") as error:
        LanguageModel(str(folder), dtype="float32").load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fields", [{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}, {"peft_type": "NONE"}])
def test_an_adapter_that_cannot_be_read_says_what_to_do(folder, fields):
    tell(folder / "adapter_config.json", **fields)
    with pytest.raises(ValueError, match=r"language model in .* cannot be read: .*adapter_config\.json .* take it out"):
        LanguageModel(str(folder), dtype="float32").load()


@pytest.mark.parametrize("added", [3, {"a": 1}, [1], [{"content": "x"}], [{"id": "1"}]])
def test_added_words_of_another_kind_are_refused_by_their_file(folder, added):
    tell(folder / "tokenizer.json", added_tokens=added)
    with pytest.raises(DataError, match=r"sent/tokenizer\.json: added_tokens is no list of words with an id"):
        _forget_words(folder / "tokenizer.json", 5)
