"""What a folder names is not looked for on a hub, and its code is not run, nor is anybody asked whether it may."""

import builtins
import json
import os
import shutil
import sys

import huggingface_hub.constants
import pytest

from lit_blip2.exchange.hugging_face import completed
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.pretrained import read_tokenizer
from lit_blip2.model.published import check_is
from lit_blip2.offline import offline
from lit_blip2.trust import NotAllowedError
from tests.model.test_side_files import tell

ASKED: list[str] = []
sys.addaudithook(lambda event, given: ASKED.append(str(given[0])) if event == "socket.getaddrinfo" else None)
CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Net: pass\n"


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Names of hosts that are asked for, and questions on the terminal: none."""
    monkeypatch.setattr(builtins, "input", lambda text: pytest.fail(text))
    ASKED.clear()
    yield ASKED
    assert not ASKED


@pytest.fixture(params=["opt", "bert"])
def sent(request, tmp_path):
    return shutil.copytree(f"lit_blip2/mini/weights/{request.param}", tmp_path / "sent")


@pytest.fixture
def model(tmp_path):
    return shutil.copytree("lit_blip2/mini/weights/opt", tmp_path / "sent")


@pytest.mark.parametrize("family", ["rf_detr", "depth_anything", "dpt"])
@pytest.mark.parametrize("place", ["own", "encoder"])
def test_a_backbone_that_a_configuration_names_is_not_asked_for(model, family, place):
    fields = {"model_type": family, "backbone": "somebody/backbone"}
    if place == "encoder":
        decoder = json.loads((model / "config.json").read_text())
        fields = {"model_type": "encoder-decoder", "encoder": fields, "decoder": decoder}
    tell(model / "config.json", **fields)
    with pytest.raises(ValueError, match=r"sent/config\.json cannot be used: ") as error:
        LanguageModel(str(model), dtype="float32").load()
    assert "\n" not in str(error.value)


def test_a_tokenizers_folder_asks_for_no_backbone(sent):
    words = len(read_tokenizer(sent))
    tell(sent / "config.json", model_type="rf_detr", backbone="somebody/backbone")
    assert abs(len(read_tokenizer(sent)) - words) <= 1  # by the class that tokenizer_config.json names


def test_an_import_asks_for_no_backbone(tmp_path):
    fields = {"text_config": {"model_type": "rf_detr", "backbone": "somebody/backbone"}}
    with pytest.raises(ValueError, match=r"config\.json is no configuration of a Blip2"):
        completed(fields, "Blip2ForConditionalGeneration", tmp_path)


def test_a_published_models_folder_is_compared_offline(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("transformers.AutoConfig.for_model", lambda **_: seen.append(os.environ["HF_HUB_OFFLINE"]))
    with pytest.raises(AttributeError):
        check_is("facebook/opt-2.7b", {"model_type": "opt"}, tmp_path)
    assert seen == ["1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "XLORA", "adapters": {"a": "somebody/adapter"}, "hidden_size": 128},
        {"peft_type": "SHADOW", "shadow_model": "somebody/model"},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2},
        {"peft_type": ["LORA"]},
        {},
        {"peft_type": "LORA", "target_modules": ["q_proj"], "megatron_config": {"a": 1}},
        {"peft_type": "LORA", "target_modules": ["q_proj"], "megatron_core": "hostile.core"},
        {"peft_type": "LORA", "target_modules": ["q_proj"], "arrow_config": {"a": 1}},
        {"peft_type": "LORA", "target_modules": ["q_proj"], "corda_config": {"cache_file": "/tmp/a"}},
        {"peft_type": "LORA", "target_modules": ["q_proj"], "_custom_modules": {"a": "b"}},
    ],
)
def test_an_adapter_is_a_plain_lora_or_refused(model, fields):
    tell(model / "config.json", use_cache=False)
    (model / "adapter_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"cannot be read: adapter_config\.json has \w+ .*only a plain LoRA"):
        LanguageModel(str(model), dtype="float32").load()


def test_a_plain_adapter_as_peft_saves_it_is_read_and_its_base_is_not_looked_for(model):
    from peft import LoraConfig, get_peft_model

    language = LanguageModel(str(model), dtype="float32")
    language.load()
    before = language.model.get_input_embeddings().weight.clone()
    adapted = get_peft_model(language.model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = "somebody/base"
    with offline():  # peft asks the hub for the base's vocabulary
        adapted.save_pretrained(model)
    assert json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"] == "somebody/base"
    again = LanguageModel(str(model), dtype="float32")
    again.load()
    names = [name for name, _ in again.model.named_parameters() if "lora_" in name]
    assert names and again.model.get_input_embeddings().weight.equal(before)


@pytest.mark.parametrize(
    "name",
    ["AutoModel", "AutoProcessor", "AutoConfig", "AutoTokenizer", "Blip2Processor", "OneFormerImageProcessor"]
    + ["OPTForCausalLM", "BertModel", "RagTokenizer", "pipeline", "LlavaProcessor", 5, ["BertTokenizer"]],
)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_tokenizers_class_is_one(sent, name, file):
    code = dict.fromkeys(["AutoModel", "AutoProcessor", "AutoConfig", "AutoImageProcessor"], "own_code.Net")
    (sent / "own_code.py").write_text(CODE)
    for each in ("config.json", "preprocessor_config.json", "processor_config.json"):
        tell(sent / each, auto_map=code, processor_class="Own", repo_path="somebody/x", class_info_file="a.json")
    tell(sent / file, tokenizer_class=name)
    with pytest.raises(NotAllowedError, match=rf"sent/{file}: tokenizer_class is .* no tokenizer of transformers"):
        read_tokenizer(sent)
    assert not (sent / "ran").exists()


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "OwnTokenizer"])
def test_a_tokenizers_class_may_be_any_of_transformers_or_unknown(tmp_path, name):
    sent = shutil.copytree("lit_blip2/mini/weights/bert", tmp_path / "bert")
    words = len(read_tokenizer(sent))
    tell(sent / "tokenizer_config.json", tokenizer_class=name)
    assert len(read_tokenizer(sent)) in (words, words + 1)  # BERT's own class adds [MASK]


def test_a_folders_code_is_not_run_and_nobody_is_asked(sent):
    (sent / "own_code.py").write_text(CODE)
    tell(sent / "config.json", auto_map={"AutoConfig": "own_code.Net", "AutoModelForCausalLM": "own_code.Net"})
    tell(sent / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own_code.Net", "own_code.Net"]})
    if (sent / "model.safetensors").is_file():  # as many folders of the hub say it, of families that are known
        LanguageModel(str(sent), dtype="float32").load()
    tell(sent / "config.json", model_type="own")
    with pytest.raises(ValueError, match="cannot be"):
        LanguageModel(str(sent), dtype="float32").load()
    assert not (sent / "ran").exists()


def test_code_is_not_run_by_any_other_way(sent):
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    (sent / "own_code.py").write_text(CODE)
    with offline(), pytest.raises(NotAllowedError, match="asks for code of its own, Net"):
        get_class_from_dynamic_module("own_code.Net", str(sent))
    assert not (sent / "ran").exists()


def test_what_was_set_before_is_set_again(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(NotAllowedError, match=r"it names https://\S+/somebody/\S+, and nothing is fetched"), offline():
        huggingface_hub.HfApi().model_info("somebody/model")
    assert os.environ["HF_HUB_OFFLINE"] == "0" and not huggingface_hub.is_offline_mode()


def test_weights_of_an_adapter_are_read_from_its_folder_alone(model):
    tell(model / "adapter_config.json", peft_type="LORA", r=2, target_modules=["q_proj"], base_model_name_or_path="a/b")
    with pytest.raises(ValueError, match=r"cannot be read: .*adapter_config\.json asks for an adapter"):
        LanguageModel(str(model), dtype="float32").load()
