"""An imported model as a run of this suite: what `test`, `ask`, `init_from` and `export` take.

OUT/version_0/config.yaml                   an experiment's, with the model's sizes and paths
OUT/version_0/checkpoints/last.ckpt         what trains
OUT/weights/vision.safetensors              the frozen encoder, under timm's names
OUT/weights/language/, OUT/weights/bert/    language model with tokenizer; the Q-Former's tokenizer
"""

import inspect
import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_blip2.checkpoint import check_fits, trainable_state
from lit_blip2.data.whole import written_whole
from lit_blip2.exchange.parts import GIANT, Parts
from lit_blip2.lit.generation import Generation
from lit_blip2.model.language import build as build_language
from lit_blip2.model.vision import build as build_vision
from lit_blip2.params import build_net
from lit_blip2.paths import find

VERSION = "version_0"
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model")
QFORMER_TOKENIZER = "qformer_tokenizer"  # InstructBLIP has two; the other one lies above it


def write_run(parts: Parts, experiment: Path, out: Path, tokenizer: Path | None = None) -> None:
    """Write the run, whole or not at all. Data, optimiser and trainer are the experiment's, and so is all of the
    network that the model does not bring along; images are made as large as its encoder takes them. tokenizer: folder
    of the one that it does.

    Raises FileExistsError if `out` exists, FileNotFoundError for no such experiment, ValueError where weights, trained
    or frozen, do not fit the network of their settings.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or give another --out")
    file = find(experiment, "experiment", "Name one by --config.")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    model["net"] = settings(parts, out / "weights", model["net"], tokenizer)
    if parts.encoder is not None:
        data["image_size"] = (model["net"]["vision"]["model_args"] or {}).get("img_size", GIANT["img_size"])
        data["features"] = None  # kept ones are another encoder's
    for start in ("init_from", "bert"):
        model.pop(start, None)
    if "language" in model["net"]:
        defaults = {
            name: each.default for name, each in inspect.signature(Generation).parameters.items() if name != "net"
        }
        config["model"]["init_args"] = model = defaults | model  # `ask` reads them without the class
    state = {f"net.{name}": value for name, value in parts.trained.items()}
    with written_whole(out) as part:
        write_weights(parts, part / "weights", tokenizer)
        net = build_net(placed(config, out, part))
        check_family(parts.family, net, experiment)
        check_fits(state, {f"net.{name}": value for name, value in trainable_state(net).items()}, f"{experiment}:")
        check_frozen(parts, net)
        folder = part / VERSION
        (folder / "checkpoints").mkdir(parents=True)
        text = yaml.safe_dump(config, sort_keys=False)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        torch.save(checkpoint(state, text), folder / "checkpoints" / "last.ckpt")


def check_family(family: str | None, net: nn.Module, experiment: Path) -> None:
    """Raises ValueError where a projection was trained for another kind of language model."""
    if family is None:
        return
    kind = net.language.config["model_type"]
    if family != (kind if kind in ("opt", "t5") else "llm"):
        raise ValueError(f"the file was trained for a language model of kind {family}, {experiment} has {kind}")


def check_frozen(parts: Parts, net: nn.Module) -> None:
    """Raises ValueError unless encoder and language model have all their weights, in their shapes, and no others."""
    if parts.encoder is not None:
        vision = net.vision
        made = build_vision(vision.name, vision.model_args, vision.drop_last_blocks, device="meta").state_dict()
        wanted = {name: value for name, value in made.items() if not name.endswith("k_bias")}
        check_fits(parts.encoder, wanted, "the image encoder")
    if parts.language is not None:
        config, state = parts.language
        made = build_language(config).state_dict(keep_vars=True)
        held = {id(made[name]) for name in state if name in made}  # a tied weight may stand under either name
        wanted = {name: value for name, value in made.items() if name in state or id(value) not in held}
        check_fits(state, wanted, "the language model")


def checkpoint(state: Mapping[str, Tensor], config: str) -> dict[str, Any]:
    """What a run of no steps would have saved."""
    return {
        "state_dict": {name: value.float() for name, value in state.items()},
        "config": config,
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("lightning"),
    }


def settings(parts: Parts, weights: Path, template: Mapping[str, Any], tokenizer: Path | None) -> dict[str, Any]:
    """The network's settings with paths; what is no size (dtypes, prompt, loss weights) is the experiment's."""
    template = plain(template)
    net, own = {**template, **parts.net}, parts.net.get("vision", {})
    vision = plain(template["vision"])
    args = {} if "name" in own else vision.get("model_args") or {}  # another encoder, or this one's depth
    net["vision"] = {**vision, **own, "model_args": {**args, **own.get("model_args", {})} or None}
    if parts.encoder is not None:
        net["vision"] |= {"weights": str(weights / "vision.safetensors"), "image_size": None, "frozen": True}
    for objective in ("itc", "itm", "itg"):
        if isinstance(parts.net.get(objective), dict):
            net[objective] = {**plain(template.get(objective) or {}), **parts.net[objective]}
    if "bridge" in parts.net:
        net["bridge"] = bridge_settings(template.get("bridge"), parts.net["bridge"])
    if parts.language is not None:
        if "language" not in template:
            raise ValueError("the model has a language model and the experiment none: name one of stage 2 by --config")
        own = {"name": str(weights / "language"), "weights": None, "frozen": True, **parts.net.get("language", {})}
        net["language"] = {**plain(template["language"]), **own}
    elif tokenizer is not None:
        net["tokenizer"] = str(weights / "bert")
    if tokenizer is not None and (tokenizer / QFORMER_TOKENIZER).is_dir():
        net["bridge"]["init_args"]["tokenizer"] = str(weights / "bert")
    return net


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a class, whether its name stands beside them or not."""
    return dict(settings.get("init_args", settings))


def bridge_settings(template: Mapping[str, Any] | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """A model's bridge; what is no size is the experiment's, where that has the same kind of bridge."""
    same = template is not None and template.get("class_path") == own["class_path"]
    return {**own, "init_args": {**(template["init_args"] if same else {}), **own["init_args"]}}


def placed(value: Any, out: Path, part: Path) -> Any:
    """The configuration while the run still lies in `part`."""
    if isinstance(value, dict):
        return {key: placed(each, out, part) for key, each in value.items()}
    if isinstance(value, list):
        return [placed(each, out, part) for each in value]
    inside = isinstance(value, str) and Path(value).is_relative_to(out)
    return str(part / Path(value).relative_to(out)) if inside else value


def write_weights(parts: Parts, folder: Path, tokenizer: Path | None) -> None:
    """The frozen weights that came along, and the tokenizer beside those that need it."""
    folder.mkdir(parents=True)
    if parts.encoder is not None:
        save_file(_contiguous(parts.encoder), folder / "vision.safetensors")
    reader = folder / ("bert" if parts.language is None else "language")
    if tokenizer is not None:
        _copy_tokenizer(tokenizer, reader)
        if (tokenizer / QFORMER_TOKENIZER).is_dir():
            _copy_tokenizer(tokenizer / QFORMER_TOKENIZER, folder / "bert")
    if parts.language is not None:
        config, state = parts.language
        (reader / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        save_file(_contiguous(state), reader / "model.safetensors", metadata={"format": "pt"})


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Raises ValueError where there is none."""
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file() and ("token" in file.name or file.name in VOCABULARIES):
            shutil.copy(file, folder)
    if not any(folder.iterdir()):
        raise ValueError(f"{source} holds no tokenizer: save it there (tokenizer.save_pretrained)")


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}
