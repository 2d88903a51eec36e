"""What an encoder-decoder makes of a document: turns, in which something is told and something is said.

A question is a turn: what came before it and the question are told, its answer is said. A document without questions
is cut: a beginning of what it says last is told, the rest is said, as in prefix LM.

Legend: B turns, S words told in the longest, T words said in the longest.
"""

from typing import NamedTuple

import numpy as np
import torch

from lit_blip2.mini.train.documents import END, Piece
from lit_blip2.mini.train.language import Batch, padded

RECALLED = 0.7  # share of the random words that the encoder looks up; the others the decoder copies
MOST_QUESTIONS = 2  # of a document: unlike a decoder, an encoder reads the description again for each


class Turn(NamedTuple):
    """Words told to the encoder, words said, and the loss weight of each.

    said: by the decoder, closed by `</s>`; or, as many as are told, by the encoder, "" where it says nothing.
    """

    told: list[str]
    said: list[str]
    weight: float

    @property
    def by_encoder(self) -> bool:
        return not self.said[0]


def turns(document: list[Piece], rng: np.random.Generator) -> list[Turn]:
    """One for each of the first questions; without any, one that cuts the last piece between start and middle."""
    (opening, _), *rest = document
    if len(rest) > 1:
        pairs = list(zip(rest[::2], rest[1::2], strict=True))[:MOST_QUESTIONS]
        return [_turn(f"{opening} {asked}", answer, weight) for (asked, _), (answer, weight) in pairs]
    text, weight = document[-1]
    if text == f"{opening} {END}" and rng.random() < RECALLED:
        return [recall(opening.split(), weight, rng)]
    words = text.removeprefix(END).removesuffix(END).split()
    cut = int(rng.integers(len(words) // 2 + 1))
    before = "" if not rest else opening if rng.random() < 0.5 else opening.removesuffix(END)
    return [_turn(" ".join([before, *words[:cut]]), " ".join([*words[cut:], END]), weight)]


def recall(words: list[str], weight: float, rng: np.random.Generator) -> Turn:
    """Told the words and them again in another order, the encoder itself says at each what followed it.

    A question's look-up without its sentence, many times over.
    """
    order = rng.permutation(len(words) - 1).tolist()
    told = [*words, END, *(words[i] for i in order), END]
    said = [*[""] * (len(words) + 1), *(words[i + 1] for i in order), ""]
    return Turn(told, said, weight)


def _turn(told: str, said: str, weight: float) -> Turn:
    """What is told needs no `</s>` in front, and one at its end."""
    words = told.removeprefix(END).split()
    return Turn([*words, *([] if words[-1:] == [END] else [END])], said.split(), weight)


def collate(turns: list[Turn], ids: dict[str, int], pad: int) -> Batch:
    """Turns all said by the encoder, or all by the decoder, which starts from the pad token and is told what it
    should have said so far."""
    told_BS = padded([[ids[w] for w in turn.told] for turn in turns], pad)
    target_BT = padded([[ids.get(w, pad) for w in turn.said] for turn in turns], pad)
    weight_BT = padded([[turn.weight if w else 0.0 for w in turn.said] for turn in turns], 0.0)
    inputs = {"input_ids": told_BS, "attention_mask": (told_BS != pad).long()}
    if not turns[0].by_encoder:
        start_B1 = torch.full((len(turns), 1), pad)
        inputs["decoder_input_ids"] = torch.cat([start_B1, target_BT[:, :-1]], dim=1)
    return Batch(inputs, target_BT, weight_BT)
