"""Sizes of tiny models, and how these tests save, change and compare them."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.model.timm_network import build as build_vision

BERT, OPT, T5 = (Path("lit_blip2/mini/weights") / name for name in ("bert", "opt", "t5"))
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
PROMPTS = ["what shape is the red object ?", "a small"]
VIT = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0)
QFORMER = dict(num_queries=4, hidden=24, layers=3, heads=2, intermediate=32, vocab_size=40, dropout=0.0)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """transformers starts the queries at zero and the ViT almost there: a mistake in them would not show."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


def encoder_file(folder: Path, name: str = "eva_giant_patch14_clip_224", **sizes) -> Path:
    """Random weights of a tiny ViT, under timm's names."""
    state = build_vision(name, VIT | sizes, 0).state_dict()
    generator = torch.Generator().manual_seed(0)
    file = folder / "own_vit.safetensors"
    save_file({n: 0.2 * torch.randn(v.shape, generator=generator) for n, v in state.items() if "k_bias" not in n}, file)
    return file


def saved(model, tokenizer: Path, folder: Path) -> Path:
    """As save_pretrained writes it, tokenizer beside it."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def rewritten(folder: Path, out: Path, change=lambda state: state, **config) -> Path:
    """A copy of a folder with other weights and other fields of its configuration."""
    shutil.copytree(folder, out)
    save_file(change(load_file(folder / "model.safetensors")), out / "model.safetensors", metadata={"format": "pt"})
    own = json.loads((folder / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(own | config))
    return out


def asked(model, tokenizer, prompts: list[str]) -> dict[str, torch.Tensor]:
    """What transformers' processor makes of prompts: image tokens, then text; decoders padded on the left."""
    texts = [[model.config.image_token_index] * 4 + ids for ids in tokenizer(prompts)["input_ids"]]
    longest = max(map(len, texts))
    left = not model.config.text_config.is_encoder_decoder
    rows = [[0] * (longest - len(ids)) + ids if left else ids + [0] * (longest - len(ids)) for ids in texts]
    pads, ones = [[0] * (longest - len(ids)) for ids in texts], [[1] * len(ids) for ids in texts]
    marks = [pad + one if left else one + pad for pad, one in zip(pads, ones)]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(marks)}


def load_stage1(run: Path):
    from benchmarks.false_negatives import load as load_run

    return load_run(str(run))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(run)["state_dict"]


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
