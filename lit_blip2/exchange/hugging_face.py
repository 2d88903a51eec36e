"""Hugging Face's BLIP-2 classes: what of their configuration and weights is ours, and where it goes.

Blip2ForImageTextRetrieval              stage 1 without ITG; its temperature is not kept there
Blip2ForConditionalGeneration           stage 2
InstructBlipForConditionalGeneration    stage 2 with a bridge that reads the prompt
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_blip2.checkpoint import is_text_half
from lit_blip2.contents import COPY_AGAIN, DataError, shown, texts_in
from lit_blip2.exchange import encoders, names
from lit_blip2.exchange.files import read_json, read_weights
from lit_blip2.exchange.foreign import ForeignModel
from lit_blip2.model.plain import Plain
from lit_blip2.model.pretrained import OLD_BUFFERS, build, read_tokenizer
from lit_blip2.model.published import published
from lit_blip2.model.random_weights import tell_random
from lit_blip2.offline import offline
from lit_blip2.pixels import RESAMPLE, UNNOTED, Looks
from lit_blip2.terminal import one_line

RETRIEVAL, GENERATION = "Blip2ForImageTextRetrieval", "Blip2ForConditionalGeneration"
INSTRUCTED = "InstructBlipForConditionalGeneration"
BRIDGES = ("lit_blip2.model.bridge.QFormerBridge", "lit_blip2.model.instructed.InstructedBridge")
LANGUAGE = "language_model."
POSITIONS = "qformer.embeddings.position_ids"
# Beside an export: weights, and settings, for which the class has no place.
SIDE_FILE, SIDE_SETTINGS = "lit_blip2.safetensors", "lit_blip2.json"
SETTINGS = {"vocab_size": (int,), "max_text_tokens": (int,), "end": (str, list), "dtype": (str,)}  # or null
KINDS = {int: "a whole number", str: "a text", list: "a list of texts"}
NO_TEXT = "dropped: the Q-Former reads no text in stage 2"
TEMPERATURE = 0.07
LOOKS = {"image_mean": "mean", "image_std": "std"}
# Fields of which the parts here have these values and no others.
QFORMER_ONLY = {"hidden_act": ("gelu",), "layer_norm_eps": (1e-12,)}
# transformers' default was 1e-5 when the first folders were written; EVA-CLIP was trained with 1e-6.
VISION_ONLY = {"hidden_act": ("gelu",), "layer_norm_eps": (1e-6, 1e-5), "qkv_bias": (True,)}


def read(path: Path) -> ForeignModel:
    """A folder that save_pretrained has written. Raises ValueError for another class, for settings that the parts here
    cannot have, and for a key without a place."""
    given = read_json(path / "config.json")
    kind = _class_of(given)
    if kind not in (RETRIEVAL, GENERATION, INSTRUCTED):
        raise ValueError(f"{path} holds a {kind}: {RETRIEVAL}, {GENERATION} and {INSTRUCTED} can be imported")
    config = completed(given, kind, path)
    state, stage2, instructed = read_weights(path), kind != RETRIEVAL, kind == INSTRUCTED
    layers = config["qformer_config"]["num_hidden_layers"]
    rules = names.rules(layers, "opt" if stage2 else None)
    trained, used = names.ours_from(state, "instructblip" if instructed else "hf", rules)
    if instructed:
        trained, used = names.without_unread(trained, used, layers)
    elif stage2:
        idle = {name for name in trained if is_text_half(name.removeprefix("bridge.qformer."))}
        trained = {name: value for name, value in trained.items() if name not in idle}
        used = {key: NO_TEXT if name in idle else name for key, name in used.items()}
    encoder, seen = encoders.from_hf(state)
    own = {key: value for key, value in state.items() if stage2 and key.startswith(LANGUAGE)}
    buffers = _buffers(own, config["text_config"]) if stage2 else {}
    fate = used | seen | {key: "the language model's own" for key in own} | buffers
    fate |= names.check_positions(state, POSITIONS, path)
    if unknown := sorted(state.keys() - fate.keys()):
        raise ValueError(f"{path} holds {unknown[0]} ({len(unknown)} such), which has no place here")
    random = tuple(texts_in(_settings_beside(path), "random", path / SIDE_SETTINGS))
    for part in random:
        tell_random(part, f"as {path / SIDE_SETTINGS} says")
    kept = _kept_beside(path, rules)
    derived = dict.fromkeys(kept, SIDE_FILE)
    if not stage2 and "itc.temperature" not in kept:
        kept["itc.temperature"] = torch.tensor(TEMPERATURE)
        derived["itc.temperature"] = f"{TEMPERATURE}, where training starts: the class keeps none"
    net = _stage2(config, instructed, path) if stage2 else _stage1(config, "itg.bias" in kept, path)
    looks = _looks(path, config["vision_config"]["image_size"])
    net |= {"vision": vision_settings(config["vision_config"]) | looks}
    language = None
    if stage2:
        language = _language(
            config["text_config"], {key.removeprefix(LANGUAGE): own[key] for key in own.keys() - buffers.keys()}, path
        )
    return ForeignModel(net, trained | kept, encoder, language, fate, derived, random=random)


def _class_of(config: Mapping[str, Any]) -> str:
    """The class that a folder was saved by."""
    named = config.get("architectures") or "none"
    return named[0] if isinstance(named, list) else named


def completed(given: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """A configuration with what its file leaves out because it is transformers' default."""
    import transformers

    config_of = transformers.InstructBlipConfig if kind == INSTRUCTED else transformers.Blip2Config
    try:
        with offline():
            config = config_of(**given).to_dict()
        # T5's own class ties embeddings whatever it is told.
        config["text_config"] |= given.get("text_config", {})
    except Exception as error:  # of many kinds, as values are
        reason = one_line(error, 200)
        raise ValueError(f"{path}/config.json is no configuration of a {kind}: {reason}") from error
    for part, only in (("qformer_config", QFORMER_ONLY), ("vision_config", VISION_ONLY)):
        for name, known in only.items():
            if config[part][name] not in known:
                raise ValueError(f"{path}: {part}.{name} is {config[part][name]!r}, this package has {known[0]!r}")
    return config


def _looks(path: Path, pixels: int) -> dict[str, Any]:
    """How a folder's image processor prepares images, as settings of the encoder. What it does not say is told, and as
    EVA-CLIP's, whatever the experiment has. Raises ValueError for a processor that this package cannot follow."""
    looks: dict[str, Any] = {}
    for file in (path / name for name in ("processor_config.json", "preprocessor_config.json")):
        given = read_json(file) if file.is_file() else {}
        if not isinstance(own := given.get("image_processor") or {}, dict):
            raise DataError(f"{file}: image_processor is {shown(own)}, where an object is wanted: {COPY_AGAIN}")
        given |= own
        wanted = {"size": ({"height": pixels, "width": pixels}, pixels), "rescale_factor": (1 / 255,)}
        wanted |= dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), (True,))
        wanted |= {"do_center_crop": (False,), "resample": tuple(RESAMPLE)}
        for name, values in wanted.items():
            if given.get(name) is not None and given[name] not in values:
                raise ValueError(
                    f"{file}: {name} is {given[name]!r}, an imported run's is {values[0]!r}: it would see other images"
                )
        told = {ours: given[name] for name, ours in LOOKS.items() if given.get(name) is not None}
        told = {name: [value] * 3 if isinstance(value, float) else value for name, value in told.items()}
        Looks.of(UNNOTED | told, str(file))
        looks |= told
        looks |= {"interpolation": RESAMPLE[given["resample"]]} if given.get("resample") is not None else {}
    if unsaid := {name: value for name, value in UNNOTED.items() if name not in looks}:
        own = {name: published()[encoders.EVA].get(name, value) for name, value in unsaid.items()}
        looks |= own
        said = ", ".join(f"{name} {value}" for name, value in own.items())
        warnings.warn(
            f"{path} has no preprocessor_config.json that says how its images look: those of image encoder "
            f"{encoders.EVA} are taken, {said}; if the model had others, put its image processor's file there",
            stacklevel=2,
        )
    return looks


def _buffers(own: Mapping[str, Tensor], text_config: dict[str, Any]) -> dict[str, str]:
    """Of each key of a language model that is no weight of it but a buffer of older classes what became of it."""
    found = {
        key: what
        for key, value in own.items()
        for ending, (dimensions, what) in OLD_BUFFERS.items()
        if key.endswith(ending) and value.ndim == dimensions
    }
    weights = build(text_config).state_dict().keys() if found else ()
    return {key: what for key, what in found.items() if key.removeprefix(LANGUAGE) not in weights}


def _kept_beside(path: Path, rules: list[names.Rule]) -> dict[str, Tensor]:
    """What an export of ours has left beside a folder. Raises ValueError for weights that have a place in it."""
    if not (path / SIDE_FILE).is_file():
        return {}
    kept = read_weights(path / SIDE_FILE)
    homeless = names.theirs_from(kept, "hf", rules)[1]
    if placed := sorted(kept.keys() - set(homeless)):
        raise ValueError(f"{path / SIDE_FILE} holds {placed[0]} ({len(placed)} such), whose place is in the model")
    return kept


def _settings_beside(path: Path) -> dict[str, Any]:
    """What an export of ours says beside a folder; empty where there is none. Raises DataError for other types."""
    file = path / SIDE_SETTINGS
    settings = read_json(file) if file.is_file() else {}
    for name, kinds in SETTINGS.items():
        value = settings.get(name)
        mixed = isinstance(value, list) and not all(isinstance(each, str) for each in value)
        if type(value) not in (*kinds, type(None)) or mixed:
            wanted = " or ".join(KINDS[kind] for kind in kinds)
            raise DataError(f"{file}: {name} is {shown(value)}, where {wanted} is wanted: {COPY_AGAIN}")
    return settings


def _language(text_config: dict[str, Any], own: dict[str, Tensor], path: Path) -> tuple[dict, dict[str, Tensor]]:
    """The language model's configuration and weights, without rows that an export of ours has added for <image>."""
    words = _settings_beside(path).get("vocab_size")
    if words is None or not 0 < words < text_config["vocab_size"]:
        return text_config, own
    rows, text_config = text_config["vocab_size"], text_config | {"vocab_size": words}
    wanted = build(text_config).state_dict()
    longer = {
        name
        for name in own.keys() & wanted.keys()
        if (own[name].shape[:1], wanted[name].shape[:1]) == ((rows,), (words,))
    }
    return text_config, {name: value[:words] if name in longer else value for name, value in own.items()}


def end_mark(text_config: Mapping[str, Any], path: Path) -> str | list[str] | None:
    """What ends generation, where that is not the tokenizer's own end token alone: OPT's newline, or several.

    Warns where the run will not end just where the folder's own generation does.
    """
    tokenizer, end = read_tokenizer(path), text_config.get("eos_token_id")
    ends = [each for each in (end if isinstance(end, list) else [end]) if each is not None]
    known = [each for each in ends if each < len(tokenizer)]
    # Targets end with the first: with the tokenizer's own, where that is among them.
    known.sort(key=lambda each: (each != tokenizer.eos_token_id, -ends.index(each)))
    own = not known or known == [tokenizer.eos_token_id]
    texts = [] if own else [tokenizer.decode([each]) for each in known]
    here = [tokenizer.eos_token_id] if own else [Plain(tokenizer).mark(text)[-1] for text in texts]
    if ends and set(ends) != set(here):
        warnings.warn(
            f"{path} ends generation at tokens {ends} (text_config.eos_token_id), the run at {here}: its answers may "
            "be longer or shorter; set model.net.language.end to another text where that is wrong",
            stacklevel=2,
        )
    return (texts[0] if len(texts) == 1 else texts) or None


def experiment_of(path: Path) -> Path:
    """The shipped experiment whose data, prompts and trainer suit a folder; sizes are the folder's own."""
    config = read_json(path / "config.json")
    kind = _class_of(config)
    name = {RETRIEVAL: "vitg_stage1", GENERATION: "vitg_opt27", INSTRUCTED: "instructblip_vicuna7b"}[kind]
    if config.get("text_config", {}).get("model_type") == "t5":
        name = {GENERATION: "vitg_flant5xl", INSTRUCTED: "instructblip_flant5xl"}.get(kind, name)
    return Path("experiments") / f"{name}.yaml"


def vision_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's EVA-CLIP ViT with these sizes; all its blocks are used, for the last is not in the file."""
    given = {
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "embed_dim": config["hidden_size"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": encoders.ratio(config["intermediate_size"], config["hidden_size"]),
    }
    changed = {key: value for key, value in given.items() if abs(value - encoders.GIANT[key]) > 1e-3}
    args = {"depth": config["num_hidden_layers"], **changed}
    return {"name": encoders.EVA, "model_args": args, "drop_last_blocks": 0}


def _qformer(config: Mapping[str, Any], text: bool) -> dict[str, Any]:
    own = config["qformer_config"]
    return {
        "num_queries": config["num_query_tokens"],
        "hidden": own["hidden_size"],
        "layers": own["num_hidden_layers"],
        "heads": own["num_attention_heads"],
        "intermediate": own["intermediate_size"],
        "cross_every": own["cross_attention_frequency"],
        "dropout": own["hidden_dropout_prob"],
        "vocab_size": own["vocab_size"] if text else None,
        "max_positions": own["max_position_embeddings"],
    }


def _longest(path: Path) -> dict[str, Any]:
    """How much of a text the Q-Former reads, where an export of ours says it."""
    return {name: value for name, value in _settings_beside(path).items() if name == "max_text_tokens"}


def _stage1(config: Mapping[str, Any], itg: bool, path: Path) -> dict[str, Any]:
    itc = {"projection": config["image_text_hidden_size"]}
    net = {"qformer": _qformer(config, text=True), "itc": itc, "itm": {}, "itg": {} if itg else None}
    return net | _longest(path)


def _stage2(config: Mapping[str, Any], instructed: bool, path: Path) -> dict[str, Any]:
    kept = _settings_beside(path)
    given = {"qformer": _qformer(config, text=instructed), **_longest(path)}
    bridge = {"class_path": BRIDGES[instructed], "init_args": given}
    prefix = config["text_config"]["model_type"] == "t5" and not instructed
    objective = {"class_path": f"lit_blip2.objectives.lm.{'PrefixLM' if prefix else 'LM'}"}
    language = {name: kept[name] for name in ("end", "dtype") if name in kept}
    language = language or {"end": end_mark(config["text_config"], path)}
    return {"bridge": bridge, "objective": objective, "language": language}
