"""What of a language model's folder changes its answers and no weight is compared."""

import json
import shutil

import pytest

from lit_blip2.model.language import LanguageModel
from lit_blip2.settings import check_same, settings


def loaded(folder) -> dict:
    language = LanguageModel(str(folder), dtype="float32")
    language.load()
    return settings(language)


@pytest.fixture
def changed(opt_folder, tmp_path):
    """Settings of a copy of a folder in which one JSON file was changed."""

    def make(name: str, change) -> dict:
        folder = shutil.copytree(opt_folder, tmp_path / "copy")
        file = folder / name
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return loaded(folder)

    return make


@pytest.mark.parametrize(
    ("field", "value"), [("num_attention_heads", 4), ("activation_function", "gelu"), ("eos_token_id", 5)]
)
def test_a_configuration_that_computes_otherwise(opt_folder, changed, field, value):
    ours = changed("config.json", lambda content: content.update({field: value}))
    with pytest.raises(ValueError, match=rf"config\.{field} .*, here {value}"):
        check_same(loaded(opt_folder), ours, "it")


@pytest.mark.parametrize(("field", "value"), [("dropout", 0.3), ("use_cache", False), ("dtype", "float16")])
def test_a_configuration_that_computes_the_same(opt_folder, changed, field, value):
    ours = changed("config.json", lambda content: content.update({field: value}))
    assert not check_same(loaded(opt_folder), ours, "it")


def test_a_tokenizer_that_gives_two_words_each_others_ids(opt_folder, changed):
    def swap(content):
        words = content["model"]["vocab"]
        one, two = (word for word in words if words[word] in (20, 21))
        words[one], words[two] = words[two], words[one]

    ours = changed("tokenizer.json", swap)
    with pytest.raises(ValueError, match=r"tokenizer\.digest"):
        check_same(loaded(opt_folder), ours, "it")


def test_a_tokenizer_that_reads_in_small_letters(opt_folder, changed):
    ours = changed("tokenizer.json", lambda content: content.update({"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ValueError, match=r"tokenizer\.digest"):
        check_same(loaded(opt_folder), ours, "it")
