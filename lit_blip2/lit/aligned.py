"""AlignedStage2: stage 2 with soft prompts pulled towards prompts learned from text alone (P-Former, arXiv 2307.07063).

Legend: B images, Q soft prompt positions, D language model width.
"""

from typing import Any

from torch import Tensor

from lit_blip2.distributed import global_mean
from lit_blip2.lit.evaluators.evaluation import image_features
from lit_blip2.lit.stage2 import LitStage2
from lit_blip2.model.prompter import Prompter, read_prompter
from lit_blip2.model.text import PackedText
from lit_blip2.paths import find
from lit_blip2.signature import difference

WAY_OUT = "Make one with `python -m lit_blip2 data make-models --only prompter`, and point --model.reference to it"


class AlignedStage2(LitStage2):
    """Stage 2 with one more loss: the distance between an image's soft prompt and its caption's reference prompt.

    A frozen prompter makes the reference prompt from the caption; the loss is the mean squared difference. Evaluation
    does not need the prompter, and checkpoints do not hold it. P-Former applies this loss in stage 1 as well; this
    class applies it in stage 2 alone.

    Args:
        reference: folder of a prompter that was trained with this language model (`python -m lit_blip2 data
            make-models --only prompter` makes the mini-world's).
        align_weight: factor of this loss in the total.
    Raises:
        ValueError: the prompter belongs to another language model or has another number of positions, or the training
            data are questions.
    """

    def __init__(self, *args: Any, reference: str, align_weight: float = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if align_weight < 0:
            raise ValueError(f"align_weight={align_weight} must not be negative")
        self.reference, self.align_weight = reference, align_weight
        self.prompter: Prompter | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.prompter = self._read()

    def _read(self) -> Prompter:
        prompter, made_for = read_prompter(find(self.reference, "prompter", WAY_OUT))
        if told := difference(made_for, self.net.language.signature):
            raise ValueError(
                f"reference={self.reference!r} was trained with the weights of another language model ({told}): make "
                f"one for {self.net.language.name}, or name the language model that it was made for"
            )
        prompter.frozen = True  # checkpoints leave it out
        return prompter.requires_grad_(False).eval()

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        features_BND = image_features(self.net.vision, batch)
        prompt_BQD = self.net.soft_prompts(features_BND, batch["prompts"], queries=batch.get("queries"))
        losses = self.net.losses(prompt_BQD, batch["target"])
        align = alignment(prompt_BQD, self.wanted(batch))
        return losses | {"align": align, "total": losses["total"] + self.align_weight * align}

    def wanted(self, batch: dict[str, Any]) -> Tensor:
        """The reference prompts of a batch's captions, float [B, Q, D]. Raises ValueError for a batch of questions."""
        if "question" in batch:
            raise ValueError("AlignedStage2 ties soft prompts to captions, and data.train has questions: use LitStage2")
        ids = self.net.language.words_to_learn(batch["caption"], [False] * len(batch["caption"]))
        return self.prompter(PackedText.from_lists(ids).to(self.device))


def alignment(prompt_BQD: Tensor, wanted_BQD: Tensor) -> Tensor:
    """Mean squared difference of two soft prompts over the global batch, a float32 scalar. Raises ValueError if the
    shapes differ."""
    if prompt_BQD.shape != wanted_BQD.shape:
        raise ValueError(
            f"the bridge makes soft prompts of {list(prompt_BQD.shape[1:])} numbers, the reference of "
            f"{list(wanted_BQD.shape[1:])}: use as many queries as the prompter has positions"
        )
    squares_BQD = (prompt_BQD.float() - wanted_BQD.float()).square()
    return global_mean(squares_BQD.sum(), squares_BQD.new_full((), squares_BQD.numel()))
