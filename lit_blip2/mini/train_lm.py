"""Training the frozen language model: a small OPT on text alone, and how well it answers from descriptions.

Legend: B documents, L tokens, V words.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from lit_blip2.mini.documents import Piece, draw_documents, prompt
from lit_blip2.mini.grammar import QUESTION_TYPES, caption_text, draw_questions
from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.vocabulary import opt_tokenizer

STEPS, BATCH, PEAK_LR, WARMUP = 3400, 64, 2e-3, 100
GROUP = 16  # documents of like length go through the model together: a third less padding
# Shares of the steps. Look-up breaks through on whole scenes, where "any colour mentioned" pays least. Then one or
# two objects are drilled, without which yes/no answers stay guesses; then mostly whole scenes again.
DRILL_FROM, WHOLE_FROM = 0.35, 0.65
REPEATED_FIRST, REPEATED_LAST = 0.5, 0.05  # shares of random-word documents, at the start and from the drill on
CHECK_PAIRS = 250


def opt_config(tokenizer: PreTrainedTokenizerFast, width: int = 128, layers: int = 4) -> OPTConfig:
    """OPT with heads 32 wide; the shipped one, 128 wide and 4 layers deep, has 0.8 M parameters."""
    return OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        ffn_dim=4 * width,
        max_position_embeddings=256,
        dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


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


def collate(documents: list[list[Piece]], ids: dict[str, int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [B, L] right-padded tokens and float32 [B, L] loss weights, 0 on padding."""
    rows = [[(ids[w], weight) for text, weight in d for w in text.split()] for d in documents]
    longest = max(len(row) for row in rows)
    tokens, weights = np.full((len(rows), longest), pad), np.zeros((len(rows), longest), dtype=np.float32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], weights[i, : len(row)] = zip(*row, strict=True)
    return torch.from_numpy(tokens), torch.from_numpy(weights)


def weighted_loss(logits_BLV: torch.Tensor, tokens_BL: torch.Tensor, weights_BL: torch.Tensor) -> torch.Tensor:
    """Sum of the next tokens' cross-entropies, each times its token's weight; first tokens are no targets."""
    losses = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), tokens_BL[:, 1:].flatten(), reduction="none")
    return (losses * weights_BL[:, 1:].flatten()).sum()


@torch.no_grad()
def greedy_answers(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, prompts: list[str], block: int = 256
) -> list[str]:
    """Greedy continuations of the prompts up to `</s>`, three words at most.

    The prompts are tokenised as they stand: no `</s>` is put in front.
    """
    end, answers = tokenizer.eos_token_id, []
    for start in range(0, len(prompts), block):
        rows = [tokenizer(p, add_special_tokens=False).input_ids for p in prompts[start : start + block]]
        lengths = [len(row) for row in rows]
        for _ in range(3):
            longest = max(map(len, rows))
            tokens = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
            last = torch.tensor([len(row) - 1 for row in rows])
            logits = model(input_ids=tokens).logits[torch.arange(len(rows)), last]  # causal: padding is later
            rows = [[*row, t] for row, t in zip(rows, logits.argmax(-1).tolist(), strict=True)]
        new = [row[n:] for row, n in zip(rows, lengths, strict=True)]
        answers += [tokenizer.decode(row[: row.index(end)] if end in row else row) for row in new]
    return answers


def check_items(seed: int, pairs: int) -> list[tuple[str, str, str, str]]:
    """(description, question, answer, type) of unseen scenes; only what the description answers is asked."""
    items = []
    for k in range(pairs):
        pair, rng = described_pair(seed, "text_check", k, captions_per_image=1)
        for told in pair:
            caption = told.captions[0]
            text = caption_text(caption)
            items += [(text, q.text, q.answer, q.type) for q in draw_questions(told.scene, rng, caption)]
    return items


def text_qa(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, items: list[tuple[str, str, str, str]], form: str
) -> dict[str, float]:
    """Exact-match accuracy per question type and its mean. `form` holds {description} and {prompt} or {question}."""
    prompts = [form.format(description=d, prompt=prompt(q), question=q) for d, q, _, _ in items]
    answers = greedy_answers(model, tokenizer, prompts)
    right = [given == wanted for given, (_, _, wanted, _) in zip(answers, items, strict=True)]
    per_type = {}
    for kind in QUESTION_TYPES:
        of_kind = [ok for ok, item in zip(right, items, strict=True) if item[3] == kind]
        per_type[kind] = round(sum(of_kind) / len(of_kind), 4)
    return {"mean": round(sum(per_type.values()) / len(per_type), 4), **per_type}


FORMS = {
    "description_end_question": "{description} </s> {prompt}",  # the order of a soft prompt: what counts
    "end_description_question": "</s> {description} {prompt}",
    "no_description": "</s> {prompt}",
}


Draw = Callable[..., tuple[list[Piece], list[Piece]]]  # as draw_documents


def train_lm(
    out: Path,
    seed: int = 0,
    steps: int = STEPS,
    make: Callable[[PreTrainedTokenizerFast], OPTForCausalLM] = lambda tokenizer: OPTForCausalLM(opt_config(tokenizer)),
    draw: Draw = draw_documents,
    peak_lr: float = PEAK_LR,
    forms: dict[str, str] = FORMS,
) -> dict:
    """Train, write the folder `out` as Hugging Face does, in fp16, with figures.json; return the figures.

    The defaults give the shipped model. make: the model to begin with. draw: what it reads.
    """
    torch.manual_seed(seed)
    tokenizer = opt_tokenizer()
    model = make(tokenizer).train()
    began = time.process_time()
    _fit(model, tokenizer, seed, steps, draw, peak_lr)
    seconds = time.process_time() - began
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    items = check_items(seed, CHECK_PAIRS)
    model = OPTForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    figures = {name: text_qa(model, tokenizer, items, form) for name, form in forms.items()}
    figures["n_per_type"] = {kind: sum(item[3] == kind for item in items) for kind in QUESTION_TYPES}
    parameters = sum(p.numel() for p in model.parameters())
    figures |= {
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "seconds": round(seconds),
        "parameters": parameters,
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def _fit(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, draw: Draw, peak_lr: float
) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: trapezium(step, steps))
    ids = tokenizer.get_vocab()
    vocabulary = sorted(set(ids) - {"<pad>", "<unk>", "</s>", ","})
    began = time.process_time()
    for step in range(steps):
        first = step * BATCH // 2
        stage = curriculum(step / steps)
        pairs = (draw(seed, k, vocabulary, *stage) for k in range(first, first + BATCH // 2))
        documents = sorted((d for pair in pairs for d in pair), key=n_words)
        groups = [documents[i : i + GROUP] for i in range(0, len(documents), GROUP)]
        batches = [collate(group, ids, tokenizer.pad_token_id) for group in groups]
        total = sum(weights_BL[:, 1:].sum() for _, weights_BL in batches)
        optimiser.zero_grad()
        loss = 0.0
        for tokens_BL, weights_BL in batches:
            part = weighted_loss(model(input_ids=tokens_BL).logits, tokens_BL, weights_BL) / total
            part.backward()
            loss += part.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            _report(model, tokenizer, seed, step + 1, loss, time.process_time() - began)


def _report(model, tokenizer, seed: int, step: int, loss: float, seconds: float) -> None:
    model.eval()
    accuracy = text_qa(model, tokenizer, check_items(seed + 1, 40), FORMS["description_end_question"])
    model.train()
    print(f"lm step {step} loss {loss:.3f} {seconds:.0f} s {accuracy}", flush=True)
