"""EVA-CLIP's ViT under two names: timm's, which LAVIS' files share behind `visual_encoder.`, and Hugging Face's.

timm has biases for queries and values and none for keys; Hugging Face one for all three. A bias of keys adds the same
to every logit of a query, which softmax does not see: it is dropped, and written as zero.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

LAVIS_PREFIX = "visual_encoder."
HF_PREFIX = "vision_model."
SINGLE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
}
IN_BLOCKS = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.projection",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def from_hf(theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(timm's weights, of each of theirs the name of timm's) of a `vision_model.` without its last norm, ln_vision."""
    ours: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    for name, key in _pairs(_depth(theirs, rf"{HF_PREFIX}encoder\.layers\.(\d+)\.")):
        ours[name] = theirs[key]
        used[key] = name
    for block in range(_depth(theirs, rf"{HF_PREFIX}encoder\.layers\.(\d+)\.")):
        key, name = f"{HF_PREFIX}encoder.layers.{block}.self_attn.qkv.bias", f"blocks.{block}.attn"
        query, _, value = theirs[key].chunk(3)
        ours |= {f"{name}.q_bias": query, f"{name}.v_bias": value}
        used[key] = f"{name}.q_bias, {name}.v_bias (keys': softmax does not see it)"
    return ours, used


def to_hf(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's weights of timm's, without the last norm."""
    depth = _depth(ours, r"blocks\.(\d+)\.")
    theirs = {key: ours[name] for name, key in _pairs(depth)}
    for block in range(depth):
        query, value = (ours[f"blocks.{block}.attn.{part}_bias"] for part in "qv")
        bias = torch.cat([query, torch.zeros_like(query), value])
        theirs[f"{HF_PREFIX}encoder.layers.{block}.self_attn.qkv.bias"] = bias
    return theirs


def _pairs(depth: int) -> list[tuple[str, str]]:
    """(timm's name, Hugging Face's) of all that only has another name."""
    found = [(name, HF_PREFIX + key) for name, key in SINGLE.items()]
    for block in range(depth):
        layer = f"{HF_PREFIX}encoder.layers.{block}"
        found.append((f"blocks.{block}.attn.qkv.weight", f"{layer}.self_attn.qkv.weight"))
        for name, key in IN_BLOCKS.items():
            found += [(f"blocks.{block}.{name}.{kind}", f"{layer}.{key}.{kind}") for kind in ("weight", "bias")]
    return found


def _depth(keys: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for key in keys if (found := re.match(pattern, key))), default=-1)
