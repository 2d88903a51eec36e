"""Losses of stage 2: LM on whole captions for decoders, PrefixLM for encoder-decoders (BLIP-2 paper, section 3.2).

Legend: B captions, L target tokens of all captions.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lit_blip2.distributed import global_mean, own_mean
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.target_text import TargetText


class LM(nn.Module):
    """The language model predicts the whole caption, or answer, after the prompt.

    Args:
        weight: factor of this loss in the total.
        mean_of_ranks: true: average the mean losses of the ranks, as LAVIS does; false: one mean over the target
            tokens of all ranks.
        learn_begin: true: if the prompt is empty, the begin token of a decoder is the first target, predicted from
            the last soft prompt position, as in LAVIS; false: the begin token is only read.
        max_text_tokens: a decoder's begin token, prompt, caption and end token are cut to this many tokens together,
            so a long caption loses its end token, as in LAVIS (32 there); null: the caption is cut to the language
            model's max_target_tokens and keeps its end token.
    """

    def __init__(
        self,
        weight: float = 1.0,
        mean_of_ranks: bool = False,
        learn_begin: bool = False,
        max_text_tokens: int | None = None,
    ):
        super().__init__()
        self.weight, self.mean_of_ranks = weight, mean_of_ranks
        self.learn_begin, self.max_text_tokens = learn_begin, max_text_tokens

    def text(
        self, language: LanguageModel, targets: Sequence[str], prompts: Sequence[str], uniform_B: Tensor
    ) -> TargetText:
        """Prompts and targets as token ids, on the CPU; `uniform_B` is not used."""
        return language.tokenise(prompts, targets, self.max_text_tokens, self.learn_begin)

    def forward(self, losses_L: Tensor) -> dict[str, Tensor]:
        """The mean of the target tokens' losses (nats), {"loss": scalar}, averaged as `mean_of_ranks` says."""
        return {"loss": mean_over_tokens(losses_L, self.mean_of_ranks)}


class PrefixLM(nn.Module):
    """The caption is split in two: the language model reads the prefix after the prompt, and predicts the suffix.

    The split is drawn between the first token and the middle. The paper does not say where; an author gave this answer.
    A caption of one token is all suffix. The paper uses this loss for encoder-decoders; a decoder reads the prefix as
    part of its prompt (ablations/forgetting.yaml).

    Args:
        weight: factor of this loss in the total.
        mean_of_ranks: true: average the mean losses of the ranks, as LAVIS does; false: one mean over the target
            tokens of all ranks.
    """

    def __init__(self, weight: float = 1.0, mean_of_ranks: bool = False):
        super().__init__()
        self.weight, self.mean_of_ranks = weight, mean_of_ranks

    def text(
        self, language: LanguageModel, captions: Sequence[str], prompts: Sequence[str], uniform_B: Tensor
    ) -> TargetText:
        """Prompts, prefixes and suffixes as token ids, on the CPU. `uniform_B`, in [0, 1), draws the splits."""
        ids = language.words_to_learn(captions, [bool(prompt.strip()) for prompt in prompts])
        prefixes, suffixes = split_prefix(ids, uniform_B.tolist())
        end = language.end_mark()
        prompt_ids = language.prompt_ids(prompts, [language.room(len(each) + len(end)) for each in ids])
        inputs = language.closed([prompt + prefix for prompt, prefix in zip(prompt_ids, prefixes)])
        return language.join(inputs, [suffix + end for suffix in suffixes])

    def forward(self, losses_L: Tensor) -> dict[str, Tensor]:
        """The mean of the target tokens' losses (nats), {"loss": scalar}, averaged as `mean_of_ranks` says."""
        return {"loss": mean_over_tokens(losses_L, self.mean_of_ranks)}


def mean_over_tokens(losses_L: Tensor, mean_of_ranks: bool = False) -> Tensor:
    """Mean loss, a scalar: over the target tokens of all ranks, or of this rank alone."""
    mean = own_mean if mean_of_ranks else global_mean
    return mean(losses_L.sum(), losses_L.new_full((), len(losses_L)))


def split_prefix(ids: Sequence[list[int]], uniforms: Sequence[float]) -> tuple[list[list[int]], list[list[int]]]:
    """Cut each caption after 1 to n // 2 of its n tokens, and return (prefixes, suffixes).

    uniforms: a number in [0, 1) for each caption. Raises ValueError, with its position, for an empty caption.
    """
    empty = [place for place, each in enumerate(ids) if not each]
    if empty:
        raise ValueError(f"captions {empty} of this batch are empty: a caption needs at least one word")
    # u < 1 gives 1 + floor(u * (n // 2)) <= n // 2; a single token has n // 2 = 0 and stays whole.
    cuts = [min(1 + int(u * (len(each) // 2)), len(each) // 2) for each, u in zip(ids, uniforms)]
    return [each[:cut] for each, cut in zip(ids, cuts)], [each[cut:] for each, cut in zip(ids, cuts)]
