"""Image encoders under other names than timm's.

EVA-CLIP's ViT: LAVIS' files have timm's names behind `visual_encoder.`, Hugging Face its own. timm has biases for
queries and values and none for keys; Hugging Face one for all three. A bias of keys adds the same to every logit of a
query, which softmax does not see: it is dropped, and written as zero.

CLIP's ViT-L: LAVIS' files have OpenAI's names.

Here both are cut after the block that is used, without the last norm, ln_vision.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_blip2.exchange.names import count_layers
from lit_blip2.model.timm_network import build
from lit_blip2.model.vision import VisionEncoder

# The two that other projects know, by timm's names; sizes of the first.
EVA, CLIP = "eva_giant_patch14_clip_224", "vit_large_patch14_clip_quickgelu_224"
GIANT = {"img_size": 224, "patch_size": 14, "embed_dim": 1408, "num_heads": 16, "mlp_ratio": 4.3637}
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
CLIP_SINGLE = {
    "cls_token": "class_embedding",
    "pos_embed": "positional_embedding",
    "patch_embed.proj.weight": "conv1.weight",
    "norm_pre.weight": "ln_pre.weight",
    "norm_pre.bias": "ln_pre.bias",
}
CLIP_BLOCK = "transformer.resblocks."
CLIP_IN_BLOCKS = {
    "norm1.": "ln_1.",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj.": "attn.out_proj.",
    "norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


def kind_of(vision: VisionEncoder) -> str | None:
    """EVA or CLIP, where an encoder is built as that one is, whatever its sizes; None for any other."""
    args = {name: value for name, value in vision.model_args.items() if "drop" not in name}  # of training alone
    given = build(vision.name, args, vision.drop_last_blocks, device="meta")
    for kind in (EVA, CLIP):
        try:
            made = build(kind, sizes_of(given), 0, device="meta")
        except (AttributeError, TypeError):  # it has other parts, or none of one size
            return None
        if str(made) == str(given) and _shapes(made) == _shapes(given):  # modules with their settings, and weights
            return kind
    return None


def sizes_of(vit: nn.Module) -> dict[str, int | float]:
    """timm's arguments for a ViT as large as this one."""
    first, width = vit.blocks[0], vit.embed_dim
    return {
        "img_size": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "embed_dim": width,
        "depth": len(vit.blocks),
        "num_heads": first.attn.num_heads,
        "mlp_ratio": ratio(first.mlp.fc1.out_features, width),
    }


def ratio(hidden: int, width: int) -> float:
    """timm's argument for so wide a feed-forward; timm rounds the product down."""
    return (hidden + 0.5) / width


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def from_clip(theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(timm's weights, of each of theirs the name of timm's) of a ViT with OpenAI's names."""
    depth = count_layers(theirs, re.escape(CLIP_BLOCK) + r"(\d+)\.")
    found = [(name, key) for name, key in _clip_pairs(depth) if key in theirs]
    ours = {name: theirs[key] for name, key in found}
    ours |= {name: ours[name][(None,) * more] for name, more in (("cls_token", 2), ("pos_embed", 1)) if name in ours}
    return ours, {key: name for name, key in found}


def to_clip(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names for timm's weights of CLIP's ViT."""
    theirs = {key: ours[name] for name, key in _clip_pairs(count_layers(ours, r"^blocks\.(\d+)\."))}
    theirs["class_embedding"] = theirs["class_embedding"].flatten()
    return theirs | {"positional_embedding": theirs["positional_embedding"][0]}


def _clip_pairs(depth: int) -> list[tuple[str, str]]:
    """(timm's name, OpenAI's)."""
    found = list(CLIP_SINGLE.items())
    for block in range(depth):
        for name, key in CLIP_IN_BLOCKS.items():
            found += [
                (f"blocks.{block}.{name}{kind}", f"{CLIP_BLOCK}{block}.{key}{kind}") for kind in ("weight", "bias")
            ]
    return found


def from_hf(theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(timm's weights, of each of theirs the name of timm's) of a `vision_model.`. What it lacks is lacking here."""
    ours: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    depth = count_layers(theirs, rf"^{HF_PREFIX}encoder\.layers\.(\d+)\.")
    for name, key in _pairs(depth):
        if key in theirs:
            ours[name] = theirs[key]
            used[key] = name
    for block in range(depth):
        key, name = f"{HF_PREFIX}encoder.layers.{block}.self_attn.qkv.bias", f"blocks.{block}.attn"
        if key in theirs:
            query, _, value = torch.atleast_1d(theirs[key]).tensor_split(3)
            ours |= {f"{name}.q_bias": query, f"{name}.v_bias": value}
            used[key] = f"{name}.q_bias, {name}.v_bias (keys': softmax does not see it)"
    return ours, used


def to_hf(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's weights of timm's EVA-CLIP."""
    depth = count_layers(ours, r"^blocks\.(\d+)\.")
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
