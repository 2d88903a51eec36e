"""Training the frozen encoder-decoder: a small T5 that reads documents in turns (turns.py), and its greedy answers.

Legend: B turns, S words told in the longest, T words said in the longest, V words, D width, N biases, H heads.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from lit_blip2.mini.train.documents import Piece
from lit_blip2.mini.train.language import Batch, Recipe, curriculum, train
from lit_blip2.mini.train.turns import collate, turns
from lit_blip2.mini.vocabulary import t5_tokenizer

STEPS = 2000
GROUP = 32  # turns of like length go through the model together
NEIGHBOUR_BIAS = 6.0  # e^6 of attention: all but sure
RECALL_UNTIL = 0.12  # share of the steps
FORMS = {
    "description_question": "{description} {prompt}",  # the order of a soft prompt: what counts
    "description_end_question": "{description} </s> {prompt}",
    "no_description": "{prompt}",
}


def t5_config(tokenizer: PreTrainedTokenizerFast) -> T5Config:
    """T5, 128 wide, 4 layers that read and 2 that write, 0.9 M parameters."""
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=16,
        d_ff=256,
        num_heads=8,
        num_layers=4,
        num_decoder_layers=2,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )


def logits(model: T5ForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The decoder's [B, T, V]; without its input the encoder's [B, S, V], through the same word embeddings."""
    if "decoder_input_ids" in inputs:
        return model(**inputs).logits
    states_BSD = model.get_encoder()(**inputs).last_hidden_state
    return model.get_output_embeddings()(states_BSD * model.config.d_model**-0.5)


def batches(documents: list[list[Piece]], tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> list[Batch]:
    ids, pad = tokenizer.get_vocab(), tokenizer.pad_token_id
    every = [turn for document in documents for turn in turns(document, rng)]
    sides = ([turn for turn in every if turn.by_encoder == side] for side in (True, False))
    ordered = (sorted(side, key=lambda turn: (len(turn.said), len(turn.told))) for side in sides)
    return [collate(side[i : i + GROUP], ids, pad) for side in ordered for i in range(0, len(side), GROUP)]


@torch.no_grad()
def greedy_answers(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, prompts: list[str], block: int = 256
) -> list[str]:
    """Greedy answers to the prompts, three words at most."""
    answers = []
    for start in range(0, len(prompts), block):
        told = tokenizer(prompts[start : start + block], padding=True, return_tensors="pt")
        ids = model.generate(**told, max_new_tokens=3, do_sample=False, num_beams=1)
        answers += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return answers


def fresh_t5(tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    model = T5ForConditionalGeneration(t5_config(tokenizer))
    look_at_neighbours(model)
    return model


@torch.no_grad()
def look_at_neighbours(model: T5ForConditionalGeneration) -> None:
    """Four heads of each stack start out looking one or two words back and, in the encoder, ahead.

    Look-up needs to know a word's neighbours, and T5 knows places by these biases alone. Adam moves them by no more
    than the learning rate a step: from zero to where they matter takes thousands of steps.
    """
    for stack, offsets in ((model.encoder, (-1, 1, -2, 2)), (model.decoder, (-1, -2))):
        bias_NH = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # shared by all layers
        for head, offset in enumerate(offsets):  # row k: k words back; in the second half: k ahead
            bias_NH[-offset if offset < 0 else len(bias_NH) // 2 + offset, head] += NEIGHBOUR_BIAS


def look_up_first(progress: float) -> tuple[float, float, float]:
    """At first random words alone: a cheap start, and questions about shapes are answered soon after it."""
    return (1.0, 0.0, 0.0) if progress < RECALL_UNTIL else curriculum(progress)


RECIPE = Recipe(t5_tokenizer, fresh_t5, look_up_first, batches, logits, greedy_answers, FORMS)


def train_t5(out: Path, seed: int = 0, steps: int = STEPS) -> dict:
    """Train and write the folder `out`; return the metrics."""
    return train(RECIPE, out, seed, steps)
