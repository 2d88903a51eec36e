"""An imported model as a run of this suite: what `test`, `ask`, `init_from` and `export` take.

OUT/version_0/config.yaml                   an experiment's, with the model's sizes and paths
OUT/version_0/checkpoints/last.ckpt         what trains
OUT/weights/vision.safetensors              the frozen encoder, under timm's names
OUT/weights/language/, OUT/weights/bert/    language model with tokenizer; the Q-Former's tokenizer
"""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from lit_blip2.checkpoint import check_fits, trainable_state
from lit_blip2.data.whole import written_whole
from lit_blip2.exchange.parts import Parts
from lit_blip2.params import build_net

VERSION = "version_0"
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model")
QFORMER_TOKENIZER = "qformer_tokenizer"  # InstructBLIP has two; the other one lies above it


def write_run(parts: Parts, experiment: Path, out: Path, tokenizer: Path | None = None) -> None:
    """Write the run, whole or not at all. Data, optimiser and trainer are the experiment's, and so is all of the
    network that the model does not bring along; images are made as large as its encoder takes them. tokenizer: folder
    of the one that it does.

    Raises FileExistsError if `out` exists, ValueError where the weights do not fit the network of their settings.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or give another --out")
    config = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    config["model"]["init_args"]["net"] = settings(
        parts, out / "weights", config["model"]["init_args"]["net"], tokenizer
    )
    if (pixels := (parts.net.get("vision", {}).get("model_args") or {}).get("img_size")) is not None:
        config["data"]["init_args"]["image_size"] = pixels
    for start in ("init_from", "bert"):
        config["model"]["init_args"].pop(start, None)
    state = {f"net.{name}": value for name, value in parts.trained.items()}
    with written_whole(out) as part:
        write_weights(parts, part / "weights", tokenizer)
        wanted = {f"net.{name}": value for name, value in trainable_state(build_net(placed(config, out, part))).items()}
        check_fits(state, wanted, f"what was imported, in {experiment},")
        folder = part / VERSION
        (folder / "checkpoints").mkdir(parents=True)
        text = yaml.safe_dump(config, sort_keys=False)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        torch.save(checkpoint(state, text), folder / "checkpoints" / "last.ckpt")


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
    template = template.get("init_args", template)
    net = {**template, **parts.net}
    own = parts.net.get("vision", {})
    args = {} if "name" in own else template["vision"].get("model_args") or {}  # another encoder, or this one's depth
    net["vision"] = {**template["vision"], **own, "model_args": {**args, **own.get("model_args", {})} or None}
    if parts.encoder is not None:
        net["vision"]["weights"] = str(weights / "vision.safetensors")
    for objective in ("itc", "itm", "itg"):
        if isinstance(parts.net.get(objective), dict):
            net[objective] = {**(template.get(objective) or {}), **parts.net[objective]}
    if parts.language is not None:
        net["language"] = {**template["language"], "name": str(weights / "language"), "weights": None}
    elif tokenizer is not None:
        net["tokenizer"] = str(weights / "bert")
    if tokenizer is not None and (tokenizer / QFORMER_TOKENIZER).is_dir():
        net["bridge"]["init_args"]["tokenizer"] = str(weights / "bert")
    return net


def placed(config: dict, out: Path, part: Path) -> dict:
    """The configuration while the run still lies in `part`."""
    return json.loads(json.dumps(config).replace(json.dumps(str(out))[1:-1], json.dumps(str(part))[1:-1]))


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
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file() and ("token" in file.name or file.name in VOCABULARIES):
            shutil.copy(file, folder)


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}
