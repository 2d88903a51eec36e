"""Stage 2's language modelling: LM on whole captions for decoders, prefix LM for encoder-decoders (paper, 3.2).

Legend: B captions, L target tokens of all captions.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lit_blip2.distributed import global_mean
from lit_blip2.model.language import LanguageModel, TargetText


class LM(nn.Module):
    """The language model predicts the whole caption, or answer, after the prompt.

    Args:
        weight: factor of this loss in the total.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def text(
        self, language: LanguageModel, targets: Sequence[str], prompts: Sequence[str], uniform_B: Tensor
    ) -> TargetText:
        """Prompts and targets, tokenised on the host; the random numbers are not needed."""
        return language.tokenise(prompts, targets)

    def forward(self, losses_L: Tensor) -> dict[str, Tensor]:
        """Loss of each target token (nats) to its mean over the target tokens of all ranks."""
        return {"loss": mean_over_tokens(losses_L)}


class PrefixLM(nn.Module):
    """The caption is split: its prefix follows the prompt, the language model predicts its suffix.

    The split lies between the first token and the middle (NUMERICS, stage 2). A one-word caption has nothing to
    split: all of it is suffix.

    Args:
        weight: factor of this loss in the total.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def text(
        self, language: LanguageModel, captions: Sequence[str], prompts: Sequence[str], uniform_B: Tensor
    ) -> TargetText:
        """Prompt, prefix and suffix, tokenised on the host; `uniform_B`, numbers in [0, 1), draws the splits."""
        ids = language.words_to_learn(captions, [bool(prompt.strip()) for prompt in prompts])
        prefixes, suffixes = split_prefix(ids, uniform_B.tolist())
        end = language.end_mark()
        prompt_ids = language.prompt_ids(prompts, language.room(max(map(len, ids)) + len(end)))
        inputs = language.closed([prompt + prefix for prompt, prefix in zip(prompt_ids, prefixes)])
        return language.join(inputs, [suffix + end for suffix in suffixes])

    def forward(self, losses_L: Tensor) -> dict[str, Tensor]:
        """Loss of each target token (nats) to its mean over the target tokens of all ranks."""
        return {"loss": mean_over_tokens(losses_L)}


def mean_over_tokens(losses_L: Tensor) -> Tensor:
    """Sum over the global count of target tokens."""
    return global_mean(losses_L.sum(), losses_L.new_full((), len(losses_L)))


def split_prefix(ids: Sequence[list[int]], uniforms: Sequence[float]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of each caption, cut after 1 to n // 2 of its n tokens: (prefixes, suffixes). Raises ValueError for an
    empty caption, naming its place."""
    empty = [place for place, each in enumerate(ids) if not each]
    if empty:
        raise ValueError(f"captions {empty} of this batch are empty: a caption needs at least one word")
    # u < 1 gives 1 + floor(u * (n // 2)) <= n // 2; a single token has n // 2 = 0 and stays whole.
    cuts = [min(1 + int(u * (len(each) // 2)), len(each) // 2) for each, u in zip(ids, uniforms)]
    return [each[:cut] for each, cut in zip(ids, cuts)], [each[cut:] for each, cut in zip(ids, cuts)]
