"""Training the frozen image encoder: a small ViT, contrastively and by captioning, on captions alone.

Legend: B images, T texts, L words, P patches (and the class token), W width, C = 3 channels, H = 64 pixels a side.
"""

import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from lit_blip2.mini.grammar import caption_text
from lit_blip2.mini.pairs import Described, described_pair
from lit_blip2.mini.render import render
from lit_blip2.mini.train.coca import CoCa
from lit_blip2.mini.train.groups import GROUP, described_group
from lit_blip2.mini.vocabulary import bert_tokenizer
from lit_blip2.mini.world import Scene, stream_rng
from lit_blip2.pixels import CLIP_MEAN, CLIP_STD

VIT_NAME = "vit_tiny_r_s16_p8_224"
VIT_KWARGS = {
    "img_size": 64,
    "patch_size": 2,  # on a convolutional stem of stride 4: 8 x 8 patches
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 0,
}
SMALL = {"embed_dim": 64, "depth": 3, "num_heads": 2}  # a fifth of the parameters; the text encoder shrinks with it
CAPTION_WEIGHT = 2.0
STEPS, BATCH, PEAK_LR, WARMUP = 1600, 64, 1e-3, 60
# Share of the steps before which scenes have at most so many objects: which word means what is learned on lone ones.
CURRICULUM = ((0.18, 1), (0.36, 2), (1.0, 4))
CHECK_PAIRS = 500
_NOISE = 1


def pixels(scenes: list[Scene], rng: np.random.Generator) -> torch.Tensor:
    """float32 [B, C, H, W], rendered and normalised with CLIP's mean and standard deviation."""
    x_BCHH = torch.from_numpy(render(scenes, rng)).permute(0, 3, 1, 2).float() / 255
    return (x_BCHH - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


def batch_of(
    told: list[Described], rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images [B, C, H, W], caption tokens [B, L] and their padding [B, L]."""
    tokens = tokenizer([caption_text(d.captions[0]) for d in told], padding=True, return_tensors="pt")
    return pixels([d.scene for d in told], rng), tokens.input_ids, tokens.attention_mask == 0


def train_vit(
    out: Path, seed: int = 0, steps: int = STEPS, size: dict[str, int] | None = None, name: str = "vit_figures.json"
) -> dict:
    """Train, write vit.safetensors (fp16, timm's keys) and the metrics under `name` to `out`; return the metrics.

    size: what differs from VIT_KWARGS.
    """
    torch.manual_seed(seed)
    tokenizer, kwargs = bert_tokenizer(), VIT_KWARGS | (size or {})
    model = CoCa(timm.create_model(VIT_NAME, **kwargs), len(tokenizer))
    began = time.perf_counter()
    _fit(model, tokenizer, seed, steps)
    seconds = time.perf_counter() - began
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in model.vit.state_dict().items()}, out / "vit.safetensors")
    model.vit.load_state_dict({k: v.float() for k, v in load_file(out / "vit.safetensors").items()})
    write_card(out)
    metrics = check(model, tokenizer, seed, CHECK_PAIRS)
    metrics |= {"seed": seed, "steps": steps, "batch": BATCH, "seconds": round(seconds)}
    metrics["parameters"] = sum(p.numel() for p in model.vit.parameters())
    metrics |= {"timm_name": VIT_NAME, "timm_kwargs": kwargs, "mean": CLIP_MEAN, "std": CLIP_STD}
    (out / name).write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def write_card(folder: Path) -> None:
    """How the encoder wants its images, beside its weights."""
    card = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic"}
    (folder / "config.json").write_text(json.dumps({"architecture": VIT_NAME, "pretrained_cfg": card}, indent=1) + "\n")


def _fit(model: CoCa, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_LR, steps, pct_start=min(0.3, WARMUP / steps), cycle_momentum=False
    )
    began = time.perf_counter()
    for step in range(steps):
        first, n = step * BATCH // GROUP, BATCH // GROUP
        most = next(most for share, most in CURRICULUM if step < share * steps)
        told = [d for k in range(first, first + n) for d in described_group(seed, "picture", k, most)]
        contrast, caption = model.losses(*batch_of(told, stream_rng(seed, "picture", step, _NOISE), tokenizer))
        optimiser.zero_grad()
        (contrast + CAPTION_WEIGHT * caption).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            metrics = check(model, tokenizer, seed + 1, 100)
            losses = f"contrast {contrast:.3f} caption {caption:.3f}"
            print(f"vit step {step + 1} {losses} {time.perf_counter() - began:.0f} s {metrics}", flush=True)


@torch.no_grad()
def check(model: CoCa, tokenizer: PreTrainedTokenizerFast, seed: int, pairs: int) -> dict[str, float]:
    """R@1 among the first partners of unseen pairs, both ways, and how often a caption prefers its own image to the
    colour-swapped one (chance 0.5; lone objects, whose partner is another scene, included)."""
    model.eval()
    told = [d for k in range(pairs) for d in described_pair(seed, "picture_check", k, captions_per_image=1)[0]]
    x_BCHH, tokens_TL, pad_TL = batch_of(told, stream_rng(seed, "picture_check", 0, _NOISE), tokenizer)
    texts_TLW, pad_TL = model.encode_texts(tokens_TL[::2]), pad_TL[::2]
    patches = (model.vit.forward_features(x) for x in x_BCHH.split(50))
    sim_TB = torch.cat([model.similarity(patches_BPW, texts_TLW, pad_TL) for patches_BPW in patches], dim=1)
    model.train()
    own, other = sim_TB[:, ::2], sim_TB[:, 1::2]
    rows = torch.arange(pairs)
    return {
        "image_to_text_r1": (own.argmax(0) == rows).float().mean().item(),
        "text_to_image_r1": (own.argmax(1) == rows).float().mean().item(),
        "swap_accuracy": (own.diagonal() > other.diagonal()).float().mean().item(),
        "n": pairs,
    }
