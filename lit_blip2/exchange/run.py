"""An imported model as a run of this suite: what `test`, `ask`, `init_from` and `export` take.

OUT/version_0/config.yaml                   an experiment's, with the model's sizes and paths
OUT/version_0/checkpoints/last.ckpt         what trains
OUT/weights/vision.safetensors              the frozen encoder, under timm's names
OUT/weights/language/, OUT/weights/bert/    language model with tokenizer; the Q-Former's tokenizer
"""

import inspect
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_blip2.checkpoint import at_home, check_fits, trainable_state
from lit_blip2.config import STARTS, Experiment, arguments_of, class_path, read
from lit_blip2.contents import COPY_AGAIN, DataError, shown
from lit_blip2.exchange.encoders import GIANT
from lit_blip2.exchange.files import read_json
from lit_blip2.exchange.foreign import ForeignModel
from lit_blip2.exchange.names import family_of
from lit_blip2.lit.evaluators.generation import Generation
from lit_blip2.model.pretrained import build as build_language
from lit_blip2.model.pretrained import read_tokenizer
from lit_blip2.model.timm_network import build as build_vision
from lit_blip2.model.tokenizer import BertTokenizer
from lit_blip2.network import ENCODER, network_class, settings_of_run, sketch
from lit_blip2.objectives.stage1 import NAMED, Stage1
from lit_blip2.objectives.stage2 import Stage2
from lit_blip2.paths import find
from lit_blip2.whole_files import written_whole

VERSION = "version_0"
LAST = Path(VERSION, "checkpoints", "last.ckpt")
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model")
QFORMER_TOKENIZER = "qformer_tokenizer"  # InstructBLIP has two; the other one lies above it


def write_run(foreign: ForeignModel, experiment: Path, out: Path, tokenizer: Path | None = None) -> None:
    """Write the run, whole or not at all. Data, optimiser and trainer are the experiment's, and so is all of the
    network that the model does not bring along; images are made as large as its encoder takes them. tokenizer: folder
    of the one that it does.

    Raises FileNotFoundError for no such experiment, ValueError where weights, trained or frozen, do not fit the network
    of their settings, or hold no numbers.
    """
    config = read_experiment(experiment)
    check_stage(foreign, config)
    check_depth(foreign, config)
    model, data = config.model, config.data
    model["net"] = settings(foreign, out / "weights", config.net, tokenizer)
    if foreign.encoder is not None:
        data["image_size"] = (config.vision["model_args"] or {}).get("img_size", GIANT["img_size"])
        data["features"] = None  # kept ones are another encoder's
    for start in STARTS:
        model.pop(start, None)
    if config.language:
        for name, each in inspect.signature(Generation).parameters.items():
            if name != "net":
                model.setdefault(name, each.default)  # `ask` reads them without the class
    state = {f"net.{name}": value for name, value in foreign.trained.items()}
    with written_whole(out) as part:
        write_weights(foreign, part / "weights", tokenizer)
        net = sketch(replace(config, settings=at_home(config.settings, part / LAST)))
        check_family(foreign.family, net, experiment)
        check_weights(foreign, net, experiment)
        if tokenizer is not None:
            check_words(net, tokenizer)
        (part / LAST).parent.mkdir(parents=True)
        text = yaml.safe_dump(config.settings, sort_keys=False)
        (part / VERSION / "config.yaml").write_text(text, encoding="utf-8")
        torch.save(checkpoint(state, text, kept_of(net, config)), part / LAST)


def read_experiment(experiment: Path) -> Experiment:
    """Raises FileNotFoundError for no such file, ValueError for one that is no experiment."""
    file = find(experiment, "experiment", "Name one by --config.")
    try:
        config = read(file)
        reason = "its network or its data have no settings"
        if config.net and config.data:
            return config
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{file} is no experiment with a network and data, as those in experiments/ are: {reason}")


def check_stage(foreign: ForeignModel, experiment: Experiment) -> None:
    """Raises ValueError where a model of one stage meets an experiment of the other."""
    stage2 = any(name.startswith("bridge.") for name in foreign.trained)
    if not issubclass(network_class(experiment), Stage2 if stage2 else Stage1):
        raise ValueError(f"the model is of stage {1 + stage2}, {experiment.source} is not: name one of it by --config")


def check_depth(foreign: ForeignModel, experiment: Experiment) -> None:
    """Raises ValueError where a file that does not say its encoder's sizes has other blocks than an image goes through
    in the experiment: the last ones could be missing."""
    vision, own = experiment.vision, foreign.net.get("vision", {})
    if foreign.encoder is None or "name" in own:
        return
    args, drop = vision.get("model_args") or {}, vision.get("drop_last_blocks", 1)
    made = build_vision(vision["name"], args, drop, device="meta")
    wanted, held = len(getattr(made, "blocks", ())), own["model_args"]["depth"]
    if wanted and wanted != held:
        raise ValueError(
            f"the file holds {held} blocks of the image encoder, in {experiment.source} an image goes through {wanted}:"
            f" some are missing, or --config must name an experiment of {held}"
        )


def check_family(family: str | None, net: nn.Module, experiment: Path) -> None:
    """Raises ValueError where a projection was trained for another kind of language model."""
    if family is not None and family != (own := family_of(net)):
        raise ValueError(f"the file was trained for a language model of kind {family}, {experiment} has {own}")


def check_weights(foreign: ForeignModel, net: nn.Module, experiment: Path) -> None:
    """Raises ValueError unless all weights that came are there, in their shapes and as numbers, and no others."""
    state = {f"net.{name}": value for name, value in foreign.trained.items()}
    wanted = {f"net.{name}": value for name, value in trainable_state(net).items()}
    if foreign.encoder is not None:
        vision, place = net.vision, "net.vision.encoder."
        made = build_vision(vision.name, vision.model_args, vision.drop_last_blocks, device="meta").state_dict()
        state |= {place + name: value for name, value in foreign.encoder.items()}
        wanted |= {place + name: value for name, value in made.items() if not name.endswith("k_bias")}
    if foreign.language is not None:
        (config, own), place = foreign.language, "net.language.model."
        model = build_language(config)
        made = model.state_dict(keep_vars=True)
        check_names(own, made, model, config["model_type"])
        held = {id(made[name]) for name in own if name in made}  # a tied weight may stand under either name
        state |= {place + name: value for name, value in own.items()}
        wanted |= {place + name: value for name, value in made.items() if name in own or id(value) not in held}
    check_fits(state, wanted, f"what was read, under {experiment},")
    odd = [name for name, value in state.items() if not value.is_floating_point() or not value.float().isfinite().all()]
    if odd:
        raise ValueError(f"{odd[0]} ({len(odd)} such) holds something else than finite numbers")


def check_names(own: Iterable[str], made: Iterable[str], model: nn.Module, family: str) -> None:
    """Raises ValueError for weights of a language model that transformers saves under other names than it computes
    with, as GPT-NeoX's and those of experts."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    other = sorted(set(own) - set(made))
    if other and get_model_conversion_mapping(model, add_legacy=False):
        raise ValueError(
            f"transformers saves language models of type {family} under other names than they have, as {other[0]}"
            f" ({len(other)} such): such a folder cannot be imported. What a run trained beside one goes by --to lavis"
        )


def check_words(net: nn.Module, tokenizer: Path) -> None:
    """Raises ValueError where the tokenizer that came along for the Q-Former has other words than that."""
    stage2 = hasattr(net, "bridge")
    reader, folder = (net.bridge, tokenizer / QFORMER_TOKENIZER) if stage2 else (net, tokenizer)
    if reader.qformer.word_embeddings is not None and folder.is_dir():
        BertTokenizer(str(folder), reader.qformer.word_embeddings.num_embeddings, reader.max_text_tokens)


def kept_of(net: nn.Module, config: Experiment) -> dict[str, Any]:
    """The settings that a run of no steps would have saved; of files that cannot be read yet, as those of a language
    model that does not come along, what is known without."""
    if hasattr(net, "language"):
        net.language.bits = None  # the signature is of the weights as they are in their file
    with suppress(OSError, ValueError):  # `test` and `ask` say what is missing
        net.load(vision=False)
    return settings_of_run(net, config.net, config.data.get("image_size") or net.vision.size)


def checkpoint(state: Mapping[str, Tensor], config: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of no steps would have saved."""
    return {
        "state_dict": {name: value.float() for name, value in state.items()},
        "settings": dict(kept),
        "config": config,
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("lightning"),
    }


def settings(
    foreign: ForeignModel, weights: Path, template: Mapping[str, Any], tokenizer: Path | None
) -> dict[str, Any]:
    """The network's settings with paths; what is no size (dtypes, prompt, loss weights) is the experiment's."""
    net, vision = {**template, **foreign.net}, arguments_of(template, "vision")
    own = foreign.net.get("vision", {})
    args = {} if "name" in own else vision.get("model_args") or {}  # another encoder, or this one's depth
    net["vision"] = {**vision, **own, "model_args": {**args, **own.get("model_args", {})} or None}
    net["vision"] |= {"frozen": True, "checkpointing": False}
    net.pop("more_objectives", None)  # the model has no others than its own
    if foreign.encoder is not None:
        net["vision"] |= {"weights": str(weights / "vision.safetensors"), "image_size": None}
    for objective in NAMED:
        if isinstance(foreign.net.get(objective), dict):
            net[objective] = {**arguments_of(template, objective), **foreign.net[objective]}
    if "bridge" in foreign.net:
        net["bridge"] = bridge_settings(template.get("bridge"), foreign.net["bridge"])
    if foreign.language is not None:
        language = {"name": str(weights / "language"), "weights": None, **foreign.net.get("language", {})}
        net["language"] = {**arguments_of(template, "language"), **language}
    elif tokenizer is not None:
        net["tokenizer"] = str(weights / "bert")
    if "language" in net:  # changes of its own are in no file
        net["language"] = {**arguments_of(net, "language"), "frozen": True, "lora": None}
    if tokenizer is not None and (tokenizer / QFORMER_TOKENIZER).is_dir():
        arguments_of(net, "bridge")["tokenizer"] = str(weights / "bert")
    return net


def bridge_settings(template: Any, own: dict[str, Any]) -> dict[str, Any]:
    """A model's bridge; what is no size is the experiment's, where that has the same kind of bridge."""
    same = class_path(template) == class_path(own)
    return {**own, "init_args": {**(arguments_of(template) if same else {}), **arguments_of(own)}}


def write_weights(foreign: ForeignModel, folder: Path, tokenizer: Path | None) -> None:
    """The frozen weights that came along, and the tokenizer beside those that need it."""
    folder.mkdir(parents=True)
    if foreign.encoder is not None:
        save_file(_contiguous(foreign.encoder), folder / "vision.safetensors")
        for name in (part.removeprefix(ENCODER) for part in foreign.random if part.startswith(ENCODER)):
            card = {"architecture": name, "random": True}
            (folder / "config.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    reader = folder / ("bert" if foreign.language is None else "language")
    if tokenizer is not None:
        _copy_tokenizer(tokenizer, reader)
        if (tokenizer / QFORMER_TOKENIZER).is_dir():
            _copy_tokenizer(tokenizer / QFORMER_TOKENIZER, folder / "bert")
    if foreign.language is not None:
        config, state = foreign.language
        if any(not part.startswith(ENCODER) for part in foreign.random):
            config = config | {"random": True}
        (reader / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        _forget_words(reader / "tokenizer.json", config["vocab_size"])
        save_file(_contiguous(state), reader / "model.safetensors", metadata={"format": "pt"})


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Raises ValueError where there is none that can be read."""
    folder.mkdir()
    for file in source.iterdir():
        told = "token" in file.name and file.suffix in (".json", ".model")
        if file.is_file() and (told or file.name in VOCABULARIES):
            shutil.copy(file, folder)
    read_tokenizer(source)


def _forget_words(tokenizer: Path, rows: int) -> None:
    """Leave out words that were added to a tokenizer and have no row, as <image> of our own export.

    Raises DataError where these are no words.
    """
    content = read_json(tokenizer) if tokenizer.is_file() else {}
    added = content.get("added_tokens", [])
    if not isinstance(added, list) or not all(isinstance(w, dict) and isinstance(w.get("id"), int) for w in added):
        raise DataError.of(tokenizer, f"added_tokens is no list of words with an id: {shown(added)}", COPY_AGAIN)
    kept = [word for word in added if word["id"] < rows]
    if len(kept) < len(added):
        tokenizer.write_text(json.dumps(content | {"added_tokens": kept}, ensure_ascii=False), encoding="utf-8")


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors wants them: none shares its memory, as tied ones of a .bin do."""
    made: dict[int, str] = {}
    first = {name: made.setdefault(value.data_ptr(), name) == name for name, value in state.items()}
    return {name: value.contiguous() if first[name] else value.clone() for name, value in state.items()}
