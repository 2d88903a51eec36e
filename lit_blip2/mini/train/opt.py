"""Training the frozen decoder: a small OPT that reads documents from end to end, and its greedy answers.

Legend: B documents, L tokens of the longest.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from lit_blip2.mini.train.documents import Piece
from lit_blip2.mini.train.language import Batch, Recipe, curriculum, padded, train
from lit_blip2.mini.vocabulary import opt_tokenizer

STEPS = 3400
GROUP = 16  # documents of like length go through the model together: a third less padding
FORMS = {
    "description_end_question": "{description} </s> {prompt}",  # the order of a soft prompt: what counts
    "end_description_question": "</s> {description} {prompt}",
    "no_description": "</s> {prompt}",
}


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


def collate(documents: list[list[Piece]], ids: dict[str, int], pad: int) -> Batch:
    """Every token but a document's first is predicted from those before it."""
    rows = [[(ids[w], weight) for text, weight in d for w in text.split()] for d in documents]
    token_BL = padded([[token for token, _ in row] for row in rows], pad)
    weight_BL = padded([[weight for _, weight in row] for row in rows], 0.0)
    return Batch({"input_ids": token_BL}, token_BL[:, 1:], weight_BL[:, 1:])


def batches(documents: list[list[Piece]], tokenizer: PreTrainedTokenizerFast, _rng: np.random.Generator) -> list[Batch]:
    ids, pad = tokenizer.get_vocab(), tokenizer.pad_token_id
    return [collate(documents[i : i + GROUP], ids, pad) for i in range(0, len(documents), GROUP)]


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
            last = torch.tensor([len(row) - 1 for row in rows])
            tokens = padded(rows, tokenizer.pad_token_id)
            logits = model(input_ids=tokens).logits[torch.arange(len(rows)), last]  # causal: padding is later
            rows = [[*row, t] for row, t in zip(rows, logits.argmax(-1).tolist(), strict=True)]
        new = [row[n:] for row, n in zip(rows, lengths, strict=True)]
        answers += [tokenizer.decode(row[: row.index(end)] if end in row else row) for row in new]
    return answers


def fresh_opt(tokenizer: PreTrainedTokenizerFast) -> OPTForCausalLM:
    return OPTForCausalLM(opt_config(tokenizer))


def logits(model: OPTForCausalLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).logits


RECIPE = Recipe(opt_tokenizer, fresh_opt, curriculum, batches, logits, greedy_answers, FORMS)


def train_opt(out: Path, seed: int = 0, steps: int = STEPS) -> dict:
    """Train and write the folder `out`; return the metrics."""
    return train(RECIPE, out, seed, steps)
