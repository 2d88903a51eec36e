"""Stage 2's language modelling: LM on whole captions for decoders, prefix LM for encoder-decoders (paper, 3.2).

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
        mean_of_ranks: each rank takes the mean over its own target tokens, and the ranks' means are averaged, as in
            LAVIS; false: one mean over those of all ranks.
        learn_begin: where the prompt is empty, the begin token of a decoder's tokenizer is the first target, predicted
            from the soft prompt's last position, as in LAVIS; false: it is read and never a target.
        max_text_tokens: begin token, prompt, caption and end mark of a decoder are cut to so many together, so that a
            long caption has no end mark, as in LAVIS (32 there); null: the language model's max_target_tokens cuts, and
            the end mark stays.
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
        """Prompts and targets, tokenised on the host; the random numbers are not needed."""
        return language.tokenise(prompts, targets, self.max_text_tokens, self.learn_begin)

    def forward(self, losses_L: Tensor) -> dict[str, Tensor]:
        """Loss of each target token (nats) to its mean over those of all ranks, or as `mean_of_ranks` says."""
        return {"loss": mean_over_tokens(losses_L, self.mean_of_ranks)}


class PrefixLM(nn.Module):
    """The caption is split: its prefix follows the prompt, the language model predicts its suffix.

    The split lies between the first token and the middle, as an author of the paper has answered; the paper does not
    say where. A one-word caption has nothing to split: all of it is suffix.

    The paper has it for encoder-decoders. A decoder reads the prefix as it reads a prompt (ablations/forgetting.yaml).

    Args:
        weight: factor of this loss in the total.
        mean_of_ranks: each rank takes the mean over its own target tokens, and the ranks' means are averaged, as in
            LAVIS; false: one mean over those of all ranks.
    """

    def __init__(self, weight: float = 1.0, mean_of_ranks: bool = False):
        super().__init__()
        self.weight, self.mean_of_ranks = weight, mean_of_ranks

    def text(
        self, language: LanguageModel, captions: Sequence[str], prompts: Sequence[str], uniform_B: Tensor
    ) -> TargetText:
        """Prompt, prefix and suffix, tokenised on the host; `uniform_B`, numbers in [0, 1), draws the splits."""
        ids = language.words_to_learn(captions, [bool(prompt.strip()) for prompt in prompts])
        prefixes, suffixes = split_prefix(ids, uniform_B.tolist())
        end = language.end_mark()
        prompt_ids = language.prompt_ids(prompts, [language.room(len(each) + len(end)) for each in ids])
        inputs = language.closed([prompt + prefix for prompt, prefix in zip(prompt_ids, prefixes)])
        return language.join(inputs, [suffix + end for suffix in suffixes])

    def forward(self, losses_L: Tensor) -> dict[str, Tensor]:
        """Loss of each target token (nats) to its mean over those of all ranks, or as `mean_of_ranks` says."""
        return {"loss": mean_over_tokens(losses_L, self.mean_of_ranks)}


def mean_over_tokens(losses_L: Tensor, mean_of_ranks: bool = False) -> Tensor:
    """Sum over the global count of target tokens, or over this rank's."""
    mean = own_mean if mean_of_ranks else global_mean
    return mean(losses_L.sum(), losses_L.new_full((), len(losses_L)))


def split_prefix(ids: Sequence[list[int]], uniforms: Sequence[float]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of each caption, cut after 1 to n // 2 of its n tokens: (prefixes, suffixes). Raises ValueError for an
    empty caption, naming its place."""
    empty = [place for place, each in enumerate(ids) if not each]
    if empty:
        raise ValueError(f"captions {empty} of this batch are empty: a caption needs at least one word")
    # u < 1 gives 1 + floor(u * (n // 2)) <= n // 2; a single token has n // 2 = 0 and stays whole.
    cuts = [min(1 + int(u * (len(each) // 2)), len(each) // 2) for each, u in zip(ids, uniforms)]
    return [each[:cut] for each, cut in zip(ids, cuts)], [each[cut:] for each, cut in zip(ids, cuts)]
