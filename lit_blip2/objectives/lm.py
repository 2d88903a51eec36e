"""Stage 2's language modelling: on captions for decoders, on suffixes for encoder-decoders (paper, 3.2).

Legend: B captions.
"""

from collections.abc import Sequence

from torch import Tensor

from lit_blip2.model.language import LanguageModel, TargetText


def caption_text(language: LanguageModel, captions: Sequence[str], prompt: str, uniform_B: Tensor) -> TargetText:
    """What the language model must predict for each caption.

    A decoder predicts the caption after the prompt. An encoder-decoder predicts its suffix; the prefix goes to the
    encoder after the prompt, the split lying between the first token and the middle (NUMERICS, stage 2), drawn by
    `uniform_B` (numbers in [0, 1), on the host). A one-word caption has nothing to split: all of it is suffix.
    """
    if not language.encoder_decoder:
        return language.tokenise([prompt] * len(captions), captions)
    prefixes, suffixes = split_prefix(language.tokenizer, captions, uniform_B.tolist())
    prompt_ids = language.tokenizer([prompt] * len(captions), add_special_tokens=False)["input_ids"]
    end = [language.tokenizer.eos_token_id]
    return language.join([a + b + end for a, b in zip(prompt_ids, prefixes)], [ids + end for ids in suffixes])


def split_prefix(
    tokenizer, captions: Sequence[str], uniforms: Sequence[float]
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of each caption, cut after 1 to n // 2 of its n tokens: (prefixes, suffixes). Raises ValueError for an
    empty caption, naming its place."""
    ids = tokenizer(list(captions), add_special_tokens=False)["input_ids"]
    empty = [place for place, each in enumerate(ids) if not each]
    if empty:
        raise ValueError(f"captions {empty} of this batch are empty: a caption needs at least one word")
    cuts = [1 + int(u * (len(each) // 2)) if len(each) > 1 else 0 for each, u in zip(ids, uniforms)]
    cuts = [min(cut, len(each) // 2) for cut, each in zip(cuts, ids)]
    return [each[:cut] for each, cut in zip(ids, cuts)], [each[cut:] for each, cut in zip(ids, cuts)]
