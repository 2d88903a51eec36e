"""Stage 2: a bridge learns to write a soft prompt that a language model, frozen in the paper, continues with the
caption (paper, 3.2).

Legend: B images, N image tokens, P soft prompt positions, W image width, D language model width.
"""

from collections.abc import Callable

from torch import Tensor, nn

from lit_blip2.model.language import LanguageModel, TargetText
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.lm import LM, PrefixLM
from lit_blip2.paths import run_all


class Stage2(nn.Module):
    """Image encoder, bridge, language model: the bridge trains, the others where they are not frozen.

    Args:
        vision: image encoder.
        language: language model.
        bridge: image features to soft prompt; gets (encoder width, language model width).
        objective: LM, or PrefixLM for an encoder-decoder.
        prompt: text before each caption in training, and for captioning; never a target.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        language: LanguageModel,
        bridge: Callable[[int, int], nn.Module],
        objective: LM | PrefixLM,
        prompt: str = "",
    ):
        super().__init__()
        if objective.weight < 0:
            raise ValueError(f"objective.weight={objective.weight} must not be negative")
        self.vision, self.language, self.prompt = vision, language, prompt
        self.objective, self.bridge = objective, bridge(vision.width, language.width)

    def load(self, vision: bool = True) -> None:
        """Read the language model and, unless features come from disk, the image encoder."""
        run_all(self.language.load, *([self.vision.load] if vision else []))

    def forward(self, features_BND: Tensor, text: TargetText) -> dict[str, Tensor]:
        """Image features [B, N, W] and targets to {lm, total}: mean loss (nats) over the target tokens of all ranks."""
        return self.losses(self.bridge(features_BND), text)

    def losses(self, prefix_BPD: Tensor, text: TargetText) -> dict[str, Tensor]:
        """forward's losses, from soft prompts that are made already."""
        losses_L, _ = self.language.loss(prefix_BPD, text)
        lm = self.objective(losses_L)["loss"]
        return {"lm": lm, "total": self.objective.weight * lm}
