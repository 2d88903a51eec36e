"""Training the BERT that a Q-Former may start from: masked words of captions, on text alone (Devlin 2019).

Its sizes are the mini Q-Former's. [UNK] stands where a word is masked: the world's captions hold no other unknown
word. The vocabulary includes [DEC], so a Q-Former takes all of it.

Legend: B captions, L words of the longest, M masked words, V vocabulary.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from lit_blip2.mini.grammar import caption_text
from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.vocabulary import bert_tokenizer
from lit_blip2.mini.world import COLOURS, SHAPES, SIZES, stream_rng

STEPS, BATCH, PEAK_LR, WARMUP = 400, 64, 2e-3, 40
SIZE = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
MASKED, BLANKED, SWAPPED = 0.15, 0.12, 0.015  # shares of the words: predicted; among those [UNK]; another word
CHECK_PAIRS = 1000
KINDS = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}
_MASKS = 2  # purpose number of the masks' generator


def bert_config(tokenizer: PreTrainedTokenizerFast) -> BertConfig:
    """BERT with one kind of segment and no dropout, 0.3 M parameters."""
    return BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        type_vocab_size=1,
        initializer_range=0.09,  # the mini Q-Former's
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        **SIZE,
    )


def fresh_bert(tokenizer: PreTrainedTokenizerFast) -> BertForMaskedLM:
    """Random; its segment embedding is nothing and stays it, for a Q-Former has none."""
    model = BertForMaskedLM(bert_config(tokenizer))
    segments = model.bert.embeddings.token_type_embeddings.weight
    nn.init.zeros_(segments.requires_grad_(False))
    return model


def masked(token_BL: Tensor, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The tokens as shown, and bool: which must be predicted. [CLS], [SEP] and padding never are."""
    special = torch.tensor([tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id])
    draw_BL = torch.from_numpy(rng.random(token_BL.shape)).masked_fill(torch.isin(token_BL, special), 1.0)
    other_BL = torch.from_numpy(rng.integers(len(tokenizer.all_special_ids), len(tokenizer), token_BL.shape))
    shown_BL = torch.where(draw_BL < BLANKED + SWAPPED, other_BL, token_BL)
    return shown_BL.masked_fill(draw_BL < BLANKED, tokenizer.unk_token_id), draw_BL < MASKED


def captions(seed: int, stream: str, first: int, pairs: int) -> list[str]:
    """Two captions a pair of scenes."""
    numbers = range(first, first + pairs)
    return [caption_text(told.captions[0]) for k in numbers for told in described_pair(seed, stream, k, 1)[0]]


def train_bert(out: Path, seed: int = 0, steps: int = STEPS) -> dict:
    """Train, write the folder `out` as Hugging Face does, with tokenizer and figures.json; return the metrics."""
    torch.manual_seed(seed)
    tokenizer = bert_tokenizer()
    model = fresh_bert(tokenizer).train()
    began = time.process_time()
    _fit(model, tokenizer, seed, steps)
    seconds = time.process_time() - began
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    metrics = check(model, tokenizer, seed) | {"seed": seed, "steps": steps, "batch": BATCH, "seconds": round(seconds)}
    metrics["parameters"] = sum(p.numel() for p in model.parameters())
    (out / "figures.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def _fit(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_LR, total_steps=steps, pct_start=min(0.3, WARMUP / steps), cycle_momentum=False
    )
    for step in track(range(steps), description="Masked words"):
        texts = captions(seed, "text", step * BATCH // 2, BATCH // 2)
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        shown_BL, asked_BL = masked(batch.input_ids, tokenizer, stream_rng(seed, "text", step, _MASKS))
        logits_BLV = model(input_ids=shown_BL, attention_mask=batch.attention_mask).logits
        optimiser.zero_grad()
        F.cross_entropy(logits_BLV[asked_BL], batch.input_ids[asked_BL]).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def check(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, float]:
    """On unseen captions, the share of masked words that are guessed right, all and colours, shapes and sizes alone;
    `commonest`: that of always guessing the commonest one; `same_kind`: a colour for a colour, and so on."""
    batch = tokenizer(captions(seed, "text_check", 0, CHECK_PAIRS), padding=True, return_tensors="pt")
    shown_BL, asked_BL = masked(batch.input_ids, tokenizer, stream_rng(seed, "text_check", 0, _MASKS))
    shown_BL = shown_BL.masked_fill(asked_BL, tokenizer.unk_token_id)
    parts = zip(shown_BL.split(250), batch.attention_mask.split(250), asked_BL.split(250), strict=True)
    guess_M = torch.cat([model(input_ids=s, attention_mask=a).logits[asked].argmax(-1) for s, a, asked in parts])
    true_M, kind_of = batch.input_ids[asked_BL], _kinds(tokenizer)
    right_M, kind_M = (guess_M == true_M).float(), kind_of[true_M]
    commonest_M = (true_M == true_M.mode().values).float()
    metrics = {"masked_word": right_M.mean().item(), "commonest": commonest_M.mean().item()}
    for number, name in enumerate(KINDS):
        metrics[name] = right_M[kind_M == number].mean().item()
        metrics[f"{name}_chance"] = 1 / len(KINDS[name])
    metrics["same_kind"] = (kind_of[guess_M] == kind_M)[kind_M >= 0].float().mean().item()
    return {name: round(value, 4) for name, value in metrics.items()} | {"n": len(true_M)}


def _kinds(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """int64 [V]: which of KINDS a word is; -1: none."""
    kind_V = torch.full((len(tokenizer),), -1)
    for number, names in enumerate(KINDS.values()):
        kind_V[tokenizer.convert_tokens_to_ids(list(names))] = number
    return kind_V
