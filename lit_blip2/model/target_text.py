"""Prompts and targets as token ids, joined and packed for a language model, with the place that predicts each target.

Legend: B samples, T padded text positions, L targets of all samples.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_blip2.model.text import PackedText


@dataclass(frozen=True)
class TargetText:
    """Prompts and targets, tokenised on the host.

    inputs: what is embedded after the soft prompt (decoder: prompt and target; encoder-decoder: prompt; may be None).
    place_L: int64, the place that predicts each target. For a decoder it lies in the flattened [B, T + 1] grid of one
    position (the soft prompt's last) and the inputs; for an encoder-decoder in the [B, T] grid of `decoder_inputs`.
    target_L: int64, the ids to predict. decoder_inputs: what an encoder-decoder's decoder reads; None for a decoder.
    """

    inputs: PackedText | None
    place_L: Tensor
    target_L: Tensor
    decoder_inputs: PackedText | None = None

    def to(self, device: torch.device | str, **kwargs) -> "TargetText":
        """The same on another device."""
        return replace(self, **{k: v.to(device, **kwargs) for k, v in vars(self).items() if v is not None})


def to_decoder(prompt_ids: list[list[int]], target_ids: list[list[int]]) -> TargetText:
    """For a decoder: each target follows its prompt."""
    targets = PackedText.from_lists(target_ids)
    inputs = PackedText.from_lists([a + b for a, b in zip(prompt_ids, target_ids)])
    prompt_B = torch.tensor([len(ids) for ids in prompt_ids])
    # A target at text position j is predicted from position j - 1, which is j with one position in front.
    place_L = targets.row_L * (inputs.max_length + 1) + prompt_B[targets.row_L] + targets.position_L
    return TargetText(inputs, place_L, targets.ids_L)


def to_encoder_decoder(prompt_ids: list[list[int]], target_ids: list[list[int]], start: int) -> TargetText:
    """For an encoder-decoder: the encoder reads the prompts, and the decoder starts from the id `start`."""
    targets = PackedText.from_lists(target_ids)
    decoder_inputs = PackedText.from_lists([[start, *ids[:-1]] for ids in target_ids])
    return TargetText(pack_prompts(prompt_ids), decoder_inputs.slot_L, targets.ids_L, decoder_inputs)


def cut_together(prompt_ids: list[list[int]], target_ids: list[list[int]], longest: int) -> list[list[int]]:
    """The part of each target within the first `longest` ids of prompt and target. Raises ValueError if it is empty."""
    if full := [place for place, ids in enumerate(prompt_ids) if len(ids) >= longest]:
        raise ValueError(
            f"max_text_tokens={longest} leaves no target after the prompts {full} of this batch: raise it, or shorten "
            "the prompt"
        )
    return [target[: longest - len(prompt)] for prompt, target in zip(prompt_ids, target_ids)]


def pack_prompts(prompt_ids: list[list[int]]) -> PackedText | None:
    """Packed prompts; None if all are empty. Raises ValueError if only some are, because none may be dropped."""
    empty = [place for place, ids in enumerate(prompt_ids) if not ids]
    if empty and len(empty) < len(prompt_ids):
        raise ValueError(f"prompts {empty} of this batch have no token and the others do: give all a prompt, or none")
    return None if empty else PackedText.from_lists(prompt_ids)
