"""Training the frozen image encoder: a small ViT and a throw-away text encoder, contrastively, on captions alone.

Legend: B images, T texts, L words, P patches (and the class token), W words of all texts, D width of the common
space, C = 3 channels, H = W = 64 pixels.
"""

import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from lit_blip2.mini.grammar import caption_text
from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.render import render
from lit_blip2.mini.vocabulary import bert_tokenizer
from lit_blip2.mini.world import Scene, stream_rng

VIT_NAME = "vit_tiny_r_s16_p8_224"
VIT_KWARGS = {
    "img_size": 64,
    "patch_size": 2,  # on a convolutional stem of stride 4: 8 x 8 patches
    "embed_dim": 128,
    "depth": 5,
    "num_heads": 4,
    "num_classes": 0,
}
# CLIP's, as the package's evaluation transform has them.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
COMMON_WIDTH = 64
STEPS, BATCH, PEAK_LR, WARMUP = 1200, 64, 1e-3, 60
CHECK_PAIRS = 500
_NOISE = 1


class TextEncoder(nn.Module):
    """Words to unit vectors, [T, L] -> [T, L, D]; two pre-norm transformer layers."""

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 2, longest: int = 40) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(longest, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, COMMON_WIDTH, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, tokens_TL: torch.Tensor, pad_TL: torch.Tensor) -> torch.Tensor:
        x_TLD = self.words(tokens_TL) + self.positions[: tokens_TL.shape[1]]
        return F.normalize(self.head(self.body(x_TLD, src_key_padding_mask=pad_TL)), dim=-1)


class ImageEncoder(nn.Module):
    """Images to unit vectors, [B, C, H, W] -> [B, P, D]. Only `vit` is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model(VIT_NAME, **VIT_KWARGS)
        self.head = nn.Linear(VIT_KWARGS["embed_dim"], COMMON_WIDTH, bias=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.head(self.vit.forward_features(x_BCHW)), dim=-1)


def similarity(i_BPD: torch.Tensor, t_TLD: torch.Tensor, pad_TL: torch.Tensor) -> torch.Tensor:
    """[T, B]: the mean over a text's words of the best patch's cosine (late interaction, FILIP, Yao 2021).

    One vector a side learns slowly what goes with what; here every word has to find its place.
    """
    B, P, D = i_BPD.shape
    w_WD, owner_W = t_TLD[~pad_TL], torch.nonzero(~pad_TL)[:, 0]
    best_WB = (w_WD @ i_BPD.reshape(B * P, D).T).view(-1, B, P).amax(-1)
    sum_TB = best_WB.new_zeros(len(t_TLD), B).index_add(0, owner_W, best_WB)
    return sum_TB / (~pad_TL).sum(1, keepdim=True)


def pixels(scenes: list[Scene], rng: np.random.Generator) -> torch.Tensor:
    """float32 [B, C, H, W], rendered and normalised with CLIP's mean and deviation."""
    x_BCHW = torch.from_numpy(render(scenes, rng)).permute(0, 3, 1, 2).float() / 255
    return (x_BCHW - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def draw_batch(
    seed: int, stream: str, first: int, pairs: int, tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, caption tokens and their padding, of `pairs` scenes and swap partners from index `first` on."""
    scenes, texts = [], []
    for k in range(first, first + pairs):
        for told in described_pair(seed, stream, k, captions_per_image=1)[0]:
            scenes.append(told.scene)
            texts.append(caption_text(told.captions[0]))
    x_BCHW = pixels(scenes, stream_rng(seed, stream, first, _NOISE))
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    return x_BCHW, tokens.input_ids, tokens.attention_mask == 0


def train_vit(out: Path, seed: int = 0, steps: int = STEPS) -> dict:
    """Train, write vit.safetensors (fp16, timm's keys) and vit_figures.json to `out`; return the figures."""
    torch.manual_seed(seed)
    tokenizer = bert_tokenizer()
    images, texts = ImageEncoder(), TextEncoder(len(tokenizer))
    began = time.perf_counter()
    _fit(images, texts, tokenizer, seed, steps)
    seconds = time.perf_counter() - began
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in images.vit.state_dict().items()}, out / "vit.safetensors")
    images.vit.load_state_dict({k: v.float() for k, v in load_file(out / "vit.safetensors").items()})
    figures = check(images, texts, tokenizer, seed, CHECK_PAIRS)
    figures |= {"seed": seed, "steps": steps, "batch": BATCH, "seconds": round(seconds)}
    figures["parameters"] = sum(p.numel() for p in images.vit.parameters())
    figures |= {"timm_name": VIT_NAME, "timm_kwargs": VIT_KWARGS, "mean": MEAN, "std": STD}
    (out / "vit_figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def _fit(images: nn.Module, texts: nn.Module, tokenizer, seed: int, steps: int) -> None:
    log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    parameters = [*images.parameters(), *texts.parameters(), log_scale]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_LR, steps, pct_start=min(0.3, WARMUP / steps), cycle_momentum=False
    )
    began, own = time.perf_counter(), torch.arange(BATCH)
    for step in range(steps):
        x_BCHW, tokens_TL, pad_TL = draw_batch(seed, "picture", step * BATCH // 2, BATCH // 2, tokenizer)
        sim_TB = similarity(images(x_BCHW), texts(tokens_TL, pad_TL), pad_TL)
        logits_TB = sim_TB * log_scale.exp().clamp(max=100)
        loss = (F.cross_entropy(logits_TB, own) + F.cross_entropy(logits_TB.T, own)) / 2
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            figures = check(images, texts, tokenizer, seed + 1, 100)
            print(f"vit step {step + 1} loss {loss:.3f} {time.perf_counter() - began:.0f} s {figures}", flush=True)


@torch.no_grad()
def check(images: nn.Module, texts: nn.Module, tokenizer, seed: int, pairs: int) -> dict[str, float]:
    """R@1 among the first partners of unseen pairs, both ways, and how often a caption prefers its own image to the
    colour-swapped one (chance 0.5; lone objects, whose partner is another scene, included)."""
    images.eval()
    x_BCHW, tokens_TL, pad_TL = draw_batch(seed, "picture_check", 0, pairs, tokenizer)
    t_TLD = texts(tokens_TL[::2], pad_TL[::2])
    sim_TB = torch.cat([similarity(images(x), t_TLD, pad_TL[::2]) for x in x_BCHW.split(50)], dim=1)
    images.train()
    own, other = sim_TB[:, ::2], sim_TB[:, 1::2]
    rows = torch.arange(pairs)
    return {
        "image_to_text_r1": (own.argmax(0) == rows).float().mean().item(),
        "text_to_image_r1": (own.argmax(1) == rows).float().mean().item(),
        "swap_accuracy": (own.diagonal() > other.diagonal()).float().mean().item(),
        "n": pairs,
    }
