"""Training a frozen language model on text alone: what an OPT and a T5 have in common.

Legend: B texts, T targets of the longest, V words.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from lit_blip2.mini.train.documents import Piece, draw_documents
from lit_blip2.mini.train.lm_check import check_items, count_per_type, text_qa
from lit_blip2.mini.world import stream_rng
from lit_blip2.offline import offline

BATCH, PEAK_LR, WARMUP = 64, 2e-3, 100
# Shares of the steps. Look-up breaks through on whole scenes, where "any colour mentioned" pays least. Then one or
# two objects are drilled, without which yes/no answers stay guesses; then mostly whole scenes again.
DRILL_FROM, WHOLE_FROM = 0.35, 0.65
REPEATED_FIRST, REPEATED_LAST = 0.5, 0.05  # shares of random-word documents, at the start and from the drill on
CHECK_PAIRS = 250
_CUTS = 1


Draw = Callable[..., tuple[list[Piece], list[Piece]]]


class Batch(NamedTuple):
    """Texts that go through the model together.

    inputs: the model's arguments; its logits at positions 0 to T - 1 predict the targets, any later ones nothing.
    target_BT: int64. weight_BT: float32, each target's weight in the loss, 0 on padding.
    """

    inputs: dict[str, Tensor]
    target_BT: Tensor
    weight_BT: Tensor


class Recipe(NamedTuple):
    """What differs between the language models.

    model: fresh, for a tokenizer. curriculum: progress to the shares of `draw_documents`. batches: documents,
    tokenizer and a generator to Batches. logits: of a Batch's inputs. answers: (model, tokenizer, prompts) to greedy
    answers. forms: name -> text with {description} and {prompt} or {question}; the first one counts. draw: what it
    reads, as draw_documents.
    """

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model: Callable[[PreTrainedTokenizerFast], nn.Module]
    curriculum: Callable[[float], tuple[float, float, float]]
    batches: Callable[[list[list[Piece]], PreTrainedTokenizerFast, np.random.Generator], list[Batch]]
    logits: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    answers: Callable[[nn.Module, PreTrainedTokenizerFast, list[str]], list[str]]
    forms: dict[str, str]
    draw: Draw = draw_documents
    peak_lr: float = PEAK_LR


def curriculum(progress: float) -> tuple[float, float, float]:
    """Shares of random words, of drills among the rest, and of small scenes among the drills."""
    repeated = REPEATED_LAST + (REPEATED_FIRST - REPEATED_LAST) * max(0.0, 1 - progress / DRILL_FROM)
    if progress < DRILL_FROM:
        return repeated, 0.0, 0.0
    return (repeated, 0.65, 1.0) if progress < WHOLE_FROM else (repeated, 0.4, 0.25)


def trapezium(step: int, steps: int) -> float:
    """Share of the peak rate: a short rise, flat while the skills break through, a fall to 0 in the last quarter."""
    return min(1.0, (step + 1) / WARMUP, 4 * (1 - step / steps))


def n_words(document: list[Piece]) -> int:
    return sum(len(text.split()) for text, _ in document)


def padded(rows: list[list], fill: int | float) -> Tensor:
    """Lists of numbers as one tensor of `fill`'s type, filled up on the right."""
    grid = np.full((len(rows), max(map(len, rows))), fill, dtype=np.float32 if isinstance(fill, float) else np.int64)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = row
    return torch.from_numpy(grid)


def weighted_loss(logits_BTV: Tensor, target_BT: Tensor, weight_BT: Tensor) -> Tensor:
    """Sum of the targets' cross-entropies, each times its weight; logits past the last target are left out."""
    logits_BTV = logits_BTV[:, : target_BT.shape[1]]
    losses = F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), reduction="none")
    return (losses * weight_BT.flatten()).sum()


def train(recipe: Recipe, out: Path, seed: int, steps: int) -> dict:
    """Train, write the folder `out` as Hugging Face does, in fp16, with figures.json; return the metrics."""
    torch.manual_seed(seed)
    tokenizer = recipe.tokenizer()
    model = recipe.model(tokenizer).train()
    began = time.process_time()
    _fit(recipe, model, tokenizer, seed, steps)
    seconds = time.process_time() - began
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    with offline():
        model = type(model).from_pretrained(out, dtype=torch.float32).eval()
    items = check_items(seed, CHECK_PAIRS)
    answer = partial(recipe.answers, model, tokenizer)
    metrics = {name: text_qa(answer, items, form) for name, form in recipe.forms.items()}
    metrics |= {"n_per_type": count_per_type(items), "seed": seed, "steps": steps, "batch": BATCH}
    metrics |= {"seconds": round(seconds), "parameters": sum(p.numel() for p in model.parameters())}
    (out / "figures.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def _fit(recipe: Recipe, model: nn.Module, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: trapezium(step, steps))
    vocabulary = sorted(set(tokenizer.get_vocab()) - {"<pad>", "<unk>", "</s>", ","})
    began = time.process_time()
    for step in range(steps):
        documents = _documents(recipe.draw, seed, step, vocabulary, recipe.curriculum(step / steps))
        batches = recipe.batches(documents, tokenizer, stream_rng(seed, "text", step, _CUTS))
        optimiser.zero_grad()
        loss = _backward(partial(recipe.logits, model), batches)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            _report(recipe, model, tokenizer, seed, step + 1, loss, time.process_time() - began)


def _documents(
    draw: Draw, seed: int, step: int, vocabulary: list[str], stage: tuple[float, float, float]
) -> list[list[Piece]]:
    """The documents of one step, shortest first."""
    first = step * BATCH // 2
    pairs = (draw(seed, k, vocabulary, *stage) for k in range(first, first + BATCH // 2))
    return sorted((document for pair in pairs for document in pair), key=n_words)


def _backward(logits: Callable[[dict[str, Tensor]], Tensor], batches: list[Batch]) -> float:
    """Gradients of the mean loss over all batches; returns that loss."""
    total, loss = sum(batch.weight_BT.sum() for batch in batches), 0.0
    for inputs, target_BT, weight_BT in batches:
        part = weighted_loss(logits(inputs), target_BT, weight_BT) / total
        part.backward()
        loss += part.item()
    return loss


def _report(recipe: Recipe, model, tokenizer, seed: int, step: int, loss: float, seconds: float) -> None:
    model.eval()
    form = next(iter(recipe.forms.values()))
    accuracy = text_qa(partial(recipe.answers, model, tokenizer), check_items(seed + 1, 40), form)
    model.train()
    print(f"lm step {step} loss {loss:.3f} {seconds:.0f} s {accuracy}", flush=True)
