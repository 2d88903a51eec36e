"""LAVIS' checkpoints: stage 1 and retrieval, stage 2 and captioning with OPT or T5, InstructBLIP with T5 or Vicuna.
Sizes are an experiment's, for the files do not tell all of them.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lit_blip2.checkpoint import read_safely
from lit_blip2.contents import DataError, texts_in
from lit_blip2.exchange import names
from lit_blip2.exchange.encoders import GIANT, LAVIS_PREFIX, from_clip, to_clip
from lit_blip2.exchange.foreign import ForeignModel
from lit_blip2.model.random_weights import tell_random
from lit_blip2.pixels import UNNOTED, Looks

LANGUAGE = ("opt_model.", "t5_model.", "llm_model.")
# Beside `model` in an export of ours: what LAVIS has no place for.
SIDE = "lit_blip2"
LOOKS = Looks.of(UNNOTED, "LAVIS")  # of all images that it prepares
POSITIONS = "Qformer.bert.embeddings.position_ids"
WORDS = "Qformer.bert.embeddings.word_embeddings.weight"
TIED = {"Qformer.cls.predictions.decoder.weight": WORDS,
        "Qformer.cls.predictions.decoder.bias": "Qformer.cls.predictions.bias"}  # fmt: skip
# (projection's key or none, its rows, width of the image features) -> the experiment with those sizes
EXPERIMENTS = {
    (None, None, 1408): "vitg_stage1",
    (None, None, 1024): "vitl_stage1",
    ("opt_proj", 2560, 1408): "vitg_opt27",
    ("opt_proj", 4096, 1408): "vitg_opt67",
    ("t5_proj", 2048, 1408): "vitg_flant5xl",
    ("t5_proj", 4096, 1408): "vitg_flant5xxl",
    ("opt_proj", 2560, 1024): "vitl_opt27",
    ("t5_proj", 2048, 1024): "vitl_flant5xl",
}
# The same where the Q-Former reads the prompt.
INSTRUCTED = {
    ("t5_proj", 2048, 1408): "instructblip_flant5xl",
    ("llm_proj", 4096, 1408): "instructblip_vicuna7b",
}


def experiment_of(state: Mapping[str, Tensor]) -> Path:
    """The shipped experiment with a file's sizes. Raises ValueError where there is none."""
    key = next((key for key in names.PROJECTIONS.values() if f"{key}.weight" in state), None)
    rows = None if key is None else len(state[f"{key}.weight"])
    width = len(state["ln_vision.weight"]) if "ln_vision.weight" in state else None
    known = INSTRUCTED if key is not None and WORDS in state else EXPERIMENTS
    if (name := known.get((key, rows, width))) is None:
        raise ValueError(
            f"no experiment has ln_vision of {width} and {key or 'no projection'}{f' to {rows}' if rows else ''}: name "
            "one with the file's sizes by --config"
        )
    return Path("experiments") / f"{name}.yaml"


def read(state: Mapping[str, Tensor], path: Path) -> ForeignModel:
    """The weights of a .pth of LAVIS. path: for the messages. Raises ValueError for a key without a place."""
    family = next((family for family, key in names.PROJECTIONS.items() if f"{key}.weight" in state), None)
    layers = names.count_layers(state, r"encoder\.layer\.(\d+)\.")
    trained, used = names.ours_from(state, "lavis", names.rules(layers, family))
    if family is not None:  # a text half is there in InstructBLIP's files only
        trained, used = names.without_unread(trained, used, layers)
    fate = used | names.check_positions(state, POSITIONS, path)
    for key, source in TIED.items():
        if key in state:
            if source not in state or not torch.equal(state[key], state[source]):
                raise ValueError(f"{path}: {key} is not {source}, to which it is tied in BERT")
            fate[key] = f"derived: {source}"
    encoder = {key.removeprefix(LAVIS_PREFIX): value for key, value in state.items() if key.startswith(LAVIS_PREFIX)}
    known = {name: name for name in encoder}
    if "class_embedding" in encoder:
        encoder, known = from_clip(encoder)
    fate |= {LAVIS_PREFIX + key: f"the encoder's {name}" for key, name in known.items()}
    fate |= {key: "dropped: the language model is read from its own files" for key in state if key.startswith(LANGUAGE)}
    if unknown := sorted(state.keys() - fate.keys()):
        raise ValueError(f"{path} holds {unknown[0]} ({len(unknown)} such), which has no place here")
    net = {"vision": {"model_args": _encoder_sizes(encoder), "drop_last_blocks": 0}} if encoder else {}
    return ForeignModel(net, trained, encoder or None, None, fate, {}, family)


def with_side(foreign: ForeignModel, path: Path) -> ForeignModel:
    """What was read, with what an export of ours says beside the weights: how images looked, which parts are random.
    Raises ValueError for looks that no image has."""
    content = read_safely(path) if path.is_file() and path.suffix != ".safetensors" else {}
    side = content.get(SIDE, {}) if isinstance(content, dict) else {}
    told = side.get("looks", {}) if isinstance(side, dict) else None
    if not isinstance(told, dict):
        raise DataError(f"{path}: {SIDE} says something else than how images look and what is random: it is damaged")
    looks = {name: told[name] for name in UNNOTED if name in told}  # no other setting is theirs to say
    Looks.of(UNNOTED | looks, str(path))
    random = tuple(texts_in(side, "random", path))
    for part in random:
        tell_random(part, f"as {path} says")
    return foreign._replace(net=foreign.net | {"vision": foreign.net.get("vision", {}) | looks}, random=random)


def _encoder_sizes(encoder: Mapping[str, Tensor]) -> dict[str, int]:
    """Blocks, and pixels where they are others than the encoder's own: files of fine-tuning have 364 or 490."""
    sizes = {"depth": names.count_layers(encoder, r"^blocks\.(\d+)\.")}
    positions, patch = (encoder.get(name, torch.empty(0)) for name in ("pos_embed", "patch_embed.proj.weight"))
    if (positions.ndim, patch.ndim) == (3, 4):
        pixels = math.isqrt(max(positions.shape[1] - 1, 0)) * patch.shape[-1]
        sizes |= {} if pixels == GIANT["img_size"] else {"img_size": pixels}
    return sizes


def state_of(trained: Mapping[str, Tensor], encoder: Mapping[str, Tensor], family: str | None) -> dict[str, Tensor]:
    """What LAVIS would have saved of our weights, without `net.`."""
    layers = names.count_layers(trained, r"layers\.(\d+)\.")
    state, homeless = names.theirs_from(trained, "lavis", names.rules(layers, family))
    if homeless:
        raise ValueError(f"{homeless[0]} ({len(homeless)} such) has no place in LAVIS")
    if "Qformer.cls.predictions.bias" in state:
        state |= {key: state[source] for key, source in TIED.items()}
    if "Qformer.bert.embeddings.position_embeddings.weight" in state:
        positions = len(state["Qformer.bert.embeddings.position_embeddings.weight"])
        state[POSITIONS] = torch.arange(positions).unsqueeze(0)
    theirs = to_clip(encoder) if "norm_pre.weight" in encoder else encoder
    return state | {LAVIS_PREFIX + name: value for name, value in theirs.items()}
