"""Hugging Face's BLIP-2 classes: what of their configuration and weights is ours, and where it goes.

Blip2ForImageTextRetrieval              stage 1 without ITG; its temperature is not kept there
Blip2ForConditionalGeneration           stage 2
InstructBlipForConditionalGeneration    stage 2 with a bridge that reads the prompt
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_blip2.checkpoint import is_text_half
from lit_blip2.exchange import encoders, names
from lit_blip2.exchange.files import read_config, read_weights
from lit_blip2.exchange.parts import GIANT, Parts

RETRIEVAL, GENERATION = "Blip2ForImageTextRetrieval", "Blip2ForConditionalGeneration"
INSTRUCTED = "InstructBlipForConditionalGeneration"
# InstructBLIP's names of the Q-Former's embeddings -> BLIP-2's.
EMBEDDINGS = {
    "qformer.embeddings.layernorm.": "qformer.layernorm.",
    "qformer.embeddings.word_embeddings.": "embeddings.word_embeddings.",
    "qformer.embeddings.position_embeddings.": "embeddings.position_embeddings.",
}
BRIDGES = ("lit_blip2.model.bridge.QFormerBridge", "lit_blip2.model.instructed.InstructedBridge")
LANGUAGE = "language_model."
SIDE_FILE = "lit_blip2.safetensors"  # beside an export: what the class has no place for
NO_TEXT = "dropped: the Q-Former reads no text in stage 2"
TEMPERATURE = 0.07


def read(path: Path) -> Parts:
    """A folder that save_pretrained has written. Raises ValueError for another class, and for a key without a place."""
    given = read_config(path)
    kind = (given.get("architectures") or ["none"])[0]
    if kind not in (RETRIEVAL, GENERATION, INSTRUCTED):
        raise ValueError(f"{path} holds a {kind}: {RETRIEVAL}, {GENERATION} and {INSTRUCTED} can be imported")
    config = completed(given, kind)
    _check_qformer(config["qformer_config"], path)
    state, stage2, instructed = read_weights(path), kind != RETRIEVAL, kind == INSTRUCTED
    originals = {renamed(key, EMBEDDINGS) if instructed else key: key for key in state}
    state = {name: state[key] for name, key in originals.items()}
    qformer = config["qformer_config"]
    rules = names.rules(qformer["num_hidden_layers"], "opt" if stage2 else None)
    trained, used = names.ours_from(state, "hf", rules)
    if instructed:
        trained, used = names.without_unread(trained, used, qformer["num_hidden_layers"])
    elif stage2:
        idle = {name for name in trained if is_text_half(name.removeprefix("bridge.qformer."))}
        trained = {name: value for name, value in trained.items() if name not in idle}
        used = {key: NO_TEXT if name in idle else name for key, name in used.items()}
    encoder, seen = encoders.from_hf(state)
    own = {key: value for key, value in state.items() if stage2 and key.startswith(LANGUAGE)}
    fate = used | seen | {key: "the language model's own" for key in own}
    if unknown := sorted(state.keys() - fate.keys()):
        raise ValueError(f"{path} holds {unknown[0]} ({len(unknown)} such), which has no place here")
    language, derived = None, {}
    net = _stage2(config, instructed) if stage2 else _stage1(config)
    if (path / SIDE_FILE).is_file():
        kept = read_weights(path / SIDE_FILE)
        trained |= kept
        derived |= dict.fromkeys(kept, SIDE_FILE)
        net |= {"itg": {}} if "itg.bias" in kept else {}
    elif not stage2:
        trained["itc.temperature"] = torch.tensor(TEMPERATURE)
        derived["itc.temperature"] = f"{TEMPERATURE}, where training starts: the class keeps none"
    if stage2:
        language = config["text_config"], {key.removeprefix(LANGUAGE): value for key, value in own.items()}
    net |= {"vision": vision_settings(config["vision_config"])}
    if stage2:
        net |= {"language": {"end": end_mark(config["text_config"], path)}}
    fate = {originals[key]: what for key, what in fate.items()}
    return Parts(net, trained, encoder, language, fate, derived)


def completed(given: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A configuration with what its file leaves out because it is transformers' default."""
    import transformers

    config = (transformers.InstructBlipConfig if kind == INSTRUCTED else transformers.Blip2Config)(**given).to_dict()
    # T5's own class ties embeddings whatever it is told.
    return config | {"text_config": config["text_config"] | given.get("text_config", {})}


def _check_qformer(config: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError for a Q-Former that is none of BERT's kind."""
    for name, only in (("hidden_act", "gelu"), ("layer_norm_eps", 1e-12)):
        if config[name] != only:
            raise ValueError(f"{path}: qformer_config.{name} is {config[name]!r}, the Q-Former here has {only!r}")


def end_mark(text_config: Mapping[str, Any], path: Path) -> str | None:
    """The text at which generation ends, where that is not the tokenizer's own end token: OPT's newline."""
    from transformers import AutoTokenizer

    tokenizer, end = AutoTokenizer.from_pretrained(path), text_config.get("eos_token_id")
    end = end[-1] if isinstance(end, list) else end
    return None if end in (None, tokenizer.eos_token_id) or end >= len(tokenizer) else tokenizer.decode([end])


def renamed(key: str, prefixes: Mapping[str, str]) -> str:
    """A key with the prefix of `prefixes` that it begins with, if there is one, exchanged."""
    return next((new + key.removeprefix(old) for old, new in prefixes.items() if key.startswith(old)), key)


def experiment_of(path: Path) -> Path:
    """The shipped experiment whose data, prompts and trainer suit a folder; sizes are the folder's own."""
    kind = (read_config(path).get("architectures") or ["none"])[0]
    name = {RETRIEVAL: "vitg_stage1", GENERATION: "vitg_opt27", INSTRUCTED: "instructblip_vicuna7b"}[kind]
    if read_config(path).get("text_config", {}).get("model_type") == "t5":
        name = {GENERATION: "vitg_flant5xl", INSTRUCTED: "instructblip_flant5xl"}.get(kind, name)
    return Path("experiments") / f"{name}.yaml"


def vision_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's EVA-CLIP ViT with these sizes; all its blocks are used, for the last is not in the file."""
    given = {
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "embed_dim": config["hidden_size"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": (config["intermediate_size"] + 0.5) / config["hidden_size"],  # timm rounds the product down
    }
    changed = {key: value for key, value in given.items() if abs(value - GIANT[key]) > 1e-3}
    args = {"depth": config["num_hidden_layers"], **changed}
    return {"name": "eva_giant_patch14_clip_224", "model_args": args, "drop_last_blocks": 0}


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


def _stage1(config: Mapping[str, Any]) -> dict[str, Any]:
    itc = {"projection": config["image_text_hidden_size"]}
    return {"qformer": _qformer(config, text=True), "itc": itc, "itm": {}, "itg": None}


def _stage2(config: Mapping[str, Any], instructed: bool) -> dict[str, Any]:
    qformer = {"qformer": _qformer(config, text=instructed)}
    bridge = {"class_path": BRIDGES[instructed], "init_args": qformer}
    prefix = config["text_config"]["model_type"] == "t5" and not instructed
    objective = {"class_path": f"lit_blip2.objectives.lm.{'PrefixLM' if prefix else 'LM'}"}
    return {"bridge": bridge, "objective": objective}
