"""What of a language model's folder changes its answers and no weight is compared."""

import json
import shutil

import pytest

from lit_blip2.model.functional import functional, has_function
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


COMPUTES = {"scale", "multiplier", "cap", "softcap", "eps", "window", "act", "theta", "heads", "shared", "rope", "norm"}
COMPUTES |= {"chunk", "gate", "lm", "router", "k", "temperature", "bias", "pattern", "alpha", "kernel", "groups"}


@pytest.fixture(scope="module")
def families() -> dict[str, dict]:
    """The configuration of every family that transformers has, with its defaults."""
    from huggingface_hub.errors import StrictDataclassClassValidationError
    from transformers import CONFIG_MAPPING

    found = {}
    for family in CONFIG_MAPPING:
        try:
            found[family] = CONFIG_MAPPING[family]().to_dict()
        except (ValueError, StrictDataclassClassValidationError):  # two that have no defaults of all they need
            continue
    return found


def test_no_field_of_any_family_that_names_a_computation_is_left_out(families):
    silent = {name for family, fields in families.items() for name in fields if not has_function(name, family)}
    assert len(families) > 500
    assert {name for name in silent if COMPUTES & {*name.split("_")} and "dropout" not in name} == {
        "chunk_size_feed_forward",  # in parts, which gives the same
        "chunk_size_lm_head",
        "output_router_logits",  # beside the others
        "dense_act_fn",  # LanguageModel tells it
    } | {name for name in silent if name.endswith("variance_scale")}  # what weights start from


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama4_text", "attention_chunk_size", 3),
        ("inkling_text", "logits_mup_width_multiplier", 2.0),
        ("llama", "mup_width_scale", 0.5),  # a field of another program's
        ("xlstm", "output_logit_soft_cap", 3.0),
        ("opt", "_remove_final_layer_norm", True),
        ("hrm_text", "prefix_lm", False),
        ("gemma3n_text", "num_kv_shared_layers", 2),
        ("dory", "initializer_range", 0.3),
        ("roberta", "pad_token_id", 3),
        ("nllb-moe", "moe_token_dropout", 0.3),
    ],
)
def test_a_field_that_a_family_computes_with_is_told(families, family, field, value):
    assert functional(families[family] | {field: value})[field] == value


@pytest.mark.parametrize(
    "field", ["pad_token_id", "initializer_range", "attention_dropout", "use_cache", "_commit_hash"]
)
def test_a_field_that_llama_does_not_compute_with_is_not_told(families, field):
    assert field not in functional(families["llama"] | {field: 1})


def test_a_configuration_within_another_is_told_by_its_fields(families):
    told = functional(families["gemma3"])
    assert told["text_config.sliding_window"] == 4096
    assert (
        not {"text_config", "text_config.dtype", "text_config.use_cache", "text_config.attention_dropout"} & told.keys()
    )
