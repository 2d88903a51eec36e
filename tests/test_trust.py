"""What a checkpoint's configuration may name: nothing else is imported, whichever way it is written."""

import copy
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from lit_blip2.checkpoint import carried
from lit_blip2.commands import params
from lit_blip2.config import Experiment, read
from lit_blip2.lit import LitStage1
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.model.bridge import LinearBridge
from lit_blip2.model.lora import add_lora
from lit_blip2.model.pretrained import build, build_random
from lit_blip2.network import kept_settings, module_arguments, sketch
from lit_blip2.trust import NotAllowedError, taken_allow

HOSTILE = """
from pathlib import Path

Path("ran").touch()

from torch import nn

from lit_blip2.lit import LitStage1
from lit_blip2.model.bridge import LinearBridge


class Bridge(LinearBridge):
    pass


class Lit(LitStage1):
    pass


def make(vision_width: int, language_width: int) -> Bridge:
    return Bridge(vision_width, language_width)
"""
LANGUAGE = dict(model_type="opt", vocab_size=9, hidden_size=4, ffn_dim=4, num_hidden_layers=1, num_attention_heads=1)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder with `hostile.py` and `hostile_package/sub.py`, which leave a file `ran` where they are run."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    (tmp_path / "hostile_package").mkdir()
    for name in ("__init__.py", "sub.py"):
        (tmp_path / "hostile_package" / name).write_text(HOSTILE)
    here = Path.cwd()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "experiments").symlink_to(here / "experiments")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("hostile"):
            del sys.modules[name]


def settings(experiment: str = "mini_opt", /, *path: str, **values) -> dict:
    """An experiment's settings with other values for some keys of the dict at a path below its network."""
    changed = copy.deepcopy(read(Path(f"experiments/{experiment}.yaml")).settings)
    place = Experiment(changed, "").net
    for each in path:
        place = place[each].get("init_args", place[each])
    place |= values
    return changed


def of_checkpoint(config: dict, *allow: str) -> Experiment:
    return carried({"config": yaml.safe_dump(config)}, Path("x.ckpt"), allow)


def refused(config: dict, *allow: str) -> str:
    """How a checkpoint's configuration is refused; nothing has run."""
    with pytest.raises(NotAllowedError) as error:
        sketch(of_checkpoint(config, *allow))
    assert not Path("ran").exists() and not {"hostile", "hostile_package"} & set(sys.modules)
    return str(error.value)


NAMES = [
    "hostile.Bridge", "hostile.make", "hostile_package.sub.Bridge", "torch.nn.Linear", "os.system", "functools.partial",
    "builtins.eval", "lit_blip2.harness.BLIP2", "lit_blip2.evaluation.java.subprocess.Popen",
    "lit_blip2.model.vision.hashlib.sha256", "lit_blip2.model.vision.nn.Linear", "lit_blip2.model.vision.build",
]  # fmt: skip
WAYS = {
    "class": lambda name: {"class_path": name, "init_args": {"num_tokens": 2}},
    "text": lambda name: name,
    "YAML in a text": lambda name: f"{{class_path: {name}}}",
    "JSON in a text": lambda name: f'{{"class_path": "{name}", "init_args": {{}}}}',
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_from_elsewhere_is_refused_before_it_is_imported(elsewhere, name, way):
    said = refused(settings(bridge=WAYS[way](name)))
    assert said.startswith(f"x.ckpt names {name}, ") and f"--allow {name}," in said and "\n" not in said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_arguments_of_a_module_name_nothing_else(elsewhere, name, way):
    """As load_from_checkpoint takes them: beside plain values the optimiser of this package."""
    config = settings("mini_stage1")
    own = config["model"]["init_args"]
    own["optimization"] = {"class_path": "lit_blip2.lit.optim.AdamWCosine", "init_args": own["optimization"]}
    found = module_arguments(of_checkpoint(config), LitStage1)
    assert found["rerank"] == 16 and type(found["optimization"]) is AdamWCosine and "net" not in found
    own["optimization"] = WAYS[way](name)
    with pytest.raises(NotAllowedError, match=f"x.ckpt names {name}, which"):
        module_arguments(of_checkpoint(config), LitStage1)
    assert not Path("ran").exists() and not {"hostile", "hostile_package"} & set(sys.modules)


def hidden(place: str) -> dict:
    """mini_opt, or mini_stage1, with a hostile class at a place."""
    evil = {"class_path": "hostile.Bridge"}
    match place:
        case "model":
            return settings() | {"model": settings()["model"] | {"class_path": "hostile.Lit"}}
        case "net":
            config = settings()
            config["model"]["init_args"]["net"] = evil | {"init_args": config["model"]["init_args"]["net"]}
            return config
        case "a net in a text":
            config = settings(bridge=evil)
            config["model"]["init_args"]["net"] = yaml.safe_dump(config["model"]["init_args"]["net"])
            return config
        case "more_objectives":
            return settings("mini_stage1", more_objectives={"mlm": evil})
        case "model_args":
            return settings("mini_opt", "vision", model_args={"act_layer": evil})
        case "a bridge's part":
            return settings("mini_opt", "bridge", qformer=evil)
        case _:
            return settings(**{place: evil})


@pytest.mark.parametrize(
    "place",
    ["model", "net", "a net in a text", "more_objectives", "model_args", "a bridge's part", "vision", "language"]
    + ["objective"],
)
def test_it_is_refused_wherever_it_stands(elsewhere, place):
    name = "hostile.Lit" if place == "model" else "hostile.Bridge"
    assert f"names {name}," in refused(hidden(place))


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of a nested dict's values, itself among them."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, below in inner for each in places(below, (*path, key)))]


def test_no_place_of_a_configuration_imports_or_connects(elsewhere, monkeypatch):
    """One after the other each value of a network's settings, each time in another writing."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("connected"))
    evil = {"class_path": "hostile.Bridge"}
    (elsewhere / "evil.yaml").write_text(yaml.safe_dump(evil))
    texts = [
        "hostile.make",
        "{a: {class_path: hostile.Bridge}}",
        "evil.yaml",
        "hf-hub:a/b",
        "https://127.0.0.1:9/a.yaml",
    ]
    values = [evil, [evil], texts, {"init_args": evil}, {"class_path": None, "dict_kwargs": {"a": evil}}, *texts]
    for number, path in enumerate(places(settings("mini_vqa")["model"])):
        config = above = settings("mini_vqa")
        *keys, last = ("model", *path)
        for key in keys:
            above = above[key]
        above[last] = values[number % len(values)]
        with suppress(ValueError, OSError):
            sketch(of_checkpoint(config))
        assert not Path("ran").exists(), path
    assert not {"hostile", "hostile_package"} & set(sys.modules)


def test_trainer_and_data_are_never_looked_at(elsewhere):
    evil = {"class_path": "hostile.Bridge"}
    config = settings() | {"data": evil, "trainer": {"callbacks": [evil], "logger": evil, "plugins": "hostile.make"}}
    config["model"]["init_args"]["optimization"] = evil
    sketch(of_checkpoint(config))
    assert not Path("ran").exists()


@pytest.mark.parametrize("allow", ["hostile", "hostile.Bridge"])
@pytest.mark.parametrize("way", WAYS)
def test_what_the_user_names_is_built(elsewhere, allow, way):
    assert type(sketch(of_checkpoint(settings(bridge=WAYS[way]("hostile.Bridge")), allow)).bridge).__name__ == "Bridge"


def test_a_package_allows_what_is_below_it_and_not_what_it_imports(elsewhere):
    net = sketch(of_checkpoint(settings(bridge=WAYS["class"]("hostile_package.sub.Bridge")), "hostile_package"))
    assert type(net.bridge).__module__ == "hostile_package.sub"
    with pytest.raises(NotAllowedError, match=r"names hostile_package\.sub\.nn\.Linear"):
        sketch(of_checkpoint(settings(bridge="hostile_package.sub.nn.Linear"), "hostile_package"))


def test_other_names_that_begin_alike_are_refused(elsewhere):
    refused(settings(bridge="hostile.Bridge"), "hostile_package", "host", "hostile.Other", "hostile.Bridge.part")


def test_a_function_of_an_allowed_module_is_called(elsewhere):
    net = sketch(of_checkpoint(settings(bridge="hostile.make"), "hostile"))
    assert isinstance(net.bridge, LinearBridge)


def test_a_yaml_of_the_users_own_may_name_anything(elsewhere):
    (elsewhere / "mine.yaml").write_text(yaml.safe_dump(settings(bridge=WAYS["class"]("hostile.Bridge"))))
    assert isinstance(sketch(read(elsewhere / "mine.yaml")).bridge, LinearBridge)


@pytest.mark.parametrize("config", [{"a": 1}, 3, torch.zeros(2)])
def test_a_configuration_that_is_no_text_is_refused(config):
    with pytest.raises(ValueError, match=r"x\.ckpt holds a \w+ in the place of its configuration"):
        carried({"config": config}, Path("x.ckpt"), ())


@pytest.mark.parametrize("name", [["hostile.Lit"], {"a": "hostile.Lit"}, 3])
def test_a_class_path_that_is_no_name_is_none(name):
    with pytest.raises(ValueError, match=r"no model\.class_path"):
        sketch(of_checkpoint(settings() | {"model": settings()["model"] | {"class_path": name}}))


def test_one_name_may_be_given_alone(elsewhere):
    experiment = carried({"config": yaml.safe_dump(settings(bridge="hostile.Bridge"))}, Path("x.ckpt"), "hostile")
    assert isinstance(sketch(experiment).bridge, LinearBridge)


TAKES_ANYTHING = """
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from lit_blip2.model.bridge import LinearBridge


class Bridge(LinearBridge):
    def __init__(
        self, vision_width: int, language_width: int, anything: Any = None, call: Callable | None = None,
        texts: str | Callable | None = None, calls: list[Callable] | None = None, kind: type | None = None,
        module: ModuleType | None = None, layer: nn.Module | None = None,
        make: Callable[[int], nn.Module] | None = None, **rest: Any,
    ):
        super().__init__(vision_width, language_width)
"""


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("anything", {"class_path": "hostile.Bridge"}),
        ("anything", "{class_path: hostile.Bridge}"),
        ("call", "hostile.make"),
        ("call", {"class_path": "hostile.Bridge"}),
        ("texts", "hostile.make"),
        ("calls", ["hostile.make"]),
        ("kind", "hostile.Bridge"),
        ("module", "hostile"),
        ("module", "hostile_package.sub"),
        ("layer", "mine.nn.Identity"),
        ("make", "hostile.make"),
        ("call", "os.system"),
        ("call", {"class_path": "functools.partial", "init_args": {"func": "os.system"}}),
        ("num_tokens", {"class_path": "hostile.Bridge"}),
    ],
)
def test_an_allowed_class_is_given_nothing_else(elsewhere, argument, value):
    """Whatever its arguments may be: functions, types and modules come as texts."""
    (elsewhere / "mine.py").write_text(TAKES_ANYTHING)
    bridge = {"class_path": "mine.Bridge", "init_args": {argument: value}}
    try:
        sketch(of_checkpoint(settings(bridge=bridge), "mine"))
    except ValueError as error:
        assert isinstance(error, NotAllowedError) or argument == "num_tokens"
    else:
        assert isinstance(value, str) and argument in ("anything", "texts")  # it stays a text
    finally:
        del sys.modules["mine"]
    assert not Path("ran").exists() and not {"hostile", "hostile_package"} & set(sys.modules)


def test_the_parser_imports_freely_again_afterwards(elsewhere):
    refused(settings(bridge="hostile.Bridge"))
    test_a_yaml_of_the_users_own_may_name_anything(elsewhere)


def test_params_takes_a_runs_config_for_the_runs(elsewhere, capsys):
    (elsewhere / "config.yaml").write_text(yaml.safe_dump(settings(bridge=WAYS["class"]("hostile.Bridge"))))
    assert params.main(["--config", "config.yaml"]) == 2
    assert "config.yaml names hostile.Bridge, " in capsys.readouterr().err and not Path("ran").exists()
    params.main(["--config", "config.yaml", "--allow", "hostile"])
    assert "bridge.projection" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("vision", "what"),
    [
        ({"name": "hf-hub:timm/vit_tiny_patch16_224"}, "vision.name='hf-hub:timm"),
        ({"name": "HF_HUB:timm/vit_tiny_patch16_224"}, "vision.name='HF_HUB:timm"),
        ({"name": " h\tf-hub:timm/vit_tiny_patch16_224"}, "nothing is fetched"),
        ({"name": "\x01hf-hub:timm/vit_tiny_patch16_224"}, "nothing is fetched"),
        ({"name": "local-dir:/tmp/vit"}, "vision.name='local-dir:/tmp/vit'"),
        ({"weights": "https://127.0.0.1:9/vit.pth"}, "vision.weights='https://"),
        ({"model_args": {"pretrained": True}}, "model_args.pretrained=True"),
        ({"model_args": {"pretrained_cfg": {"hf_hub_id": "timm/vit"}}}, "model_args.pretrained_cfg.hf_hub_id="),
        ({"model_args": {"checkpoint_path": "x.pth"}}, "model_args.checkpoint_path='x.pth'"),
        ({"model_args": "{pretrained: true}"}, "model_args.pretrained=True"),
    ],
)
def test_nothing_is_fetched_because_a_checkpoint_says_so(monkeypatch, vision, what):
    monkeypatch.setattr("timm.create_model", None)
    with pytest.raises(NotAllowedError) as error:
        sketch(of_checkpoint(settings("mini_opt", "vision", **vision)))
    assert what in str(error.value) and "--ckpt_path" in str(error.value)


@pytest.mark.parametrize("text", ["s3://bucket/bridge.yaml", "{class_path: x, init_args: 'hf-hub:a/b'}"])
def test_no_part_is_read_from_an_address(text):
    with pytest.raises(ValueError, match=r"fetched|do not fit"):
        sketch(of_checkpoint(settings(bridge=text)))


def test_settings_of_an_older_checkpoint_are_compared_only_where_its_names_are_allowed(elsewhere):
    """A test with a YAML of one's own: what that names, the checkpoint may name too."""
    config = settings("mini_stage1", more_objectives={"mlm": {"class_path": "hostile.Bridge"}})
    with pytest.raises(NotAllowedError, match=r"names hostile\.Bridge"):
        kept_settings({"config": yaml.safe_dump(config)}, Path("x.ckpt"), ["experiments.mini_stage1"])
    assert not Path("ran").exists()


def test_allow_is_taken_out_of_a_command_line():
    arguments = ["test", "--allow", "mine", "--config=x.yaml", "--allow=other.place"]
    assert taken_allow(arguments) == (["mine", "other.place"], ["test", "--config=x.yaml"])


@pytest.mark.parametrize("config", [{"attn_implementation": "somebody/kernel"}, {"_attn_implementation": "a/b:c"}])
def test_a_language_models_folder_names_no_code(config):
    for given in (LANGUAGE | config, LANGUAGE | {"text_config": config}):
        with pytest.raises(ValueError, match=r"asks for .*_implementation='.*fetch and run"):
            build(given)


@pytest.mark.parametrize(
    "vision", [{"architecture": "hf-hub:somebody/encoder"}, {"model_args": {"checkpoint_path": "x.pth"}}]
)
def test_a_language_models_folder_has_no_encoder_fetched(vision):
    """Some of transformers' language models look at images, through timm."""
    with pytest.raises(ValueError, match=r"asks for vision_config.*nothing is fetched"):
        build({"model_type": "gemma3n", "vision_config": {"model_type": "gemma3n_vision"} | vision})


def test_code_beside_a_language_model_is_not_asked_for(tmp_path, monkeypatch):
    """transformers would ask on the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    build(LANGUAGE | {"auto_map": {"AutoModelForCausalLM": "somebody/code--hostile.Model"}})
    with pytest.raises(ValueError, match=r"trust_remote_code|Unrecognized configuration"):
        build({"model_type": "clip", "auto_map": {"AutoModelForCausalLM": "somebody/code--hostile.Model"}})


def test_an_adapter_beside_a_language_model_imports_no_module_of_megatron(tmp_path):
    build_random(LANGUAGE, torch.float32).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "megatron_config": {"a": 1}}')
    with pytest.raises(ValueError, match=r"adapter_config\.json has megatron_config"):
        build(LANGUAGE, tmp_path)


def test_low_rank_changes_import_no_module_of_megatron(elsewhere):
    os.makedirs("megatron")
    (elsewhere / "megatron" / "core.py").write_text(HOSTILE)
    model = build_random(LANGUAGE, torch.float32)
    lora = dict(r=1, target_modules=["q_proj"], megatron_config={"a": 1}, megatron_core="megatron.core")
    with pytest.raises(ValueError, match="megatron_config"):
        add_lora(model, lora)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"model_args": {"norm_layer": "evil.Net"}}, r"image encoder vit\S* with model_args=.*norm_layer.* is unknown"),
        ({"model_args": {"num_heads": 0}}, r"image encoder vit\S* with model_args=.*: integer .*zero"),
        ({"dict_kwargs": {"evil": 1}}, r"got an unexpected keyword argument 'evil'"),
    ],
)
def test_arguments_that_no_encoder_takes_are_refused_in_words(place, words):
    config = settings("mini_stage1")
    net = Experiment(config, "").net
    vision = net["vision"] | {"model_args": net["vision"]["model_args"] | place.get("model_args", {})}
    net["vision"] = {"class_path": "lit_blip2.model.vision.VisionEncoder", "init_args": vision}
    net["vision"] |= {key: value for key, value in place.items() if key == "dict_kwargs"}
    with pytest.raises(ValueError, match=r"x\.ckpt: the settings of the network do not fit: .*" + words):
        sketch(of_checkpoint(config))


@pytest.mark.parametrize("name", ["lit_blip2.model.evil", "lit_blip2.lit.Evil"])
def test_a_module_that_is_not_there_is_refused_in_words(name):
    config = settings("mini_stage1")
    config["model"]["class_path"] = name
    with pytest.raises(ValueError, match=rf"x\.ckpt: model\.class_path '{name}' cannot be imported"):
        sketch(of_checkpoint(config))
