"""Stage 2: a bridge learns to write a soft prompt that a language model, frozen in the paper, continues with the
caption (paper, 3.2).

Legend: B images, R prompts, N image tokens, P soft prompt positions, W image width, D language model width.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lit_blip2.model.instructed import InstructedBridge
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.matryoshka import MatryoshkaBridge
from lit_blip2.model.target_text import TargetText
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.lm import LM, PrefixLM
from lit_blip2.paths import run_all


class Stage2(nn.Module):
    """Image encoder, bridge, language model: the bridge trains, the others where they are not frozen.

    Args:
        vision: image encoder.
        language: language model.
        bridge: image features to soft prompt; gets (encoder width, language model width).
        objective: LM, or PrefixLM, which the paper has for an encoder-decoder.
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
        if self.reads_prompts and not prompt.strip():
            raise ValueError("prompt is empty, and the bridge reads it beside each image: set net.prompt")

    @property
    def objectives(self) -> dict[str, LM | PrefixLM]:
        """The one objective, by the name of its loss."""
        return {"lm": self.objective}

    def load(self, vision: bool = True) -> None:
        """Read the language model, a bridge's tokenizer and, unless features come from disk, the image encoder."""
        run_all(self.language.load, self.load_tokenizers, *([self.vision.load] if vision else []))

    def load_tokenizers(self) -> None:
        """Read the tokenizers alone."""
        run_all(self.language.load_tokenizer, *([self.bridge.load] if self.reads_prompts else []))

    @property
    def reads_prompts(self) -> bool:
        """Whether the bridge makes another soft prompt of an image for another prompt."""
        return isinstance(self.bridge, InstructedBridge)

    def read(self, prompts: Sequence[str]) -> PackedText | None:
        """What the bridge reads of the language model's prompts, packed on the host; None where it reads none."""
        return self.bridge.read(prompts) if self.reads_prompts else None

    def draw(self, seed: int, step: int) -> int | None:
        """With how many of its queries a bridge trains in a step; None where it is all of them, always."""
        return self.bridge.draw(seed, step) if isinstance(self.bridge, MatryoshkaBridge) else None

    def soft_prompts(
        self,
        features_BND: Tensor,
        prompts: PackedText | None = None,
        image_R: Tensor | None = None,
        queries: int | None = None,
    ) -> Tensor:
        """Image features [B, N, W] to soft prompts [R, P, D]; each image is looked at once.

        Args: prompts: R of them, where the bridge reads them. image_R: int64, which image each of R rows is about;
        None: one after the other. queries: what `draw` drew.
        """
        if prompts is not None:
            return self.bridge(features_BND, prompts, image_R)
        prefix_BPD = self.bridge(features_BND) if queries is None else self.bridge(features_BND, queries)
        return prefix_BPD if image_R is None else prefix_BPD[image_R]

    def forward(
        self, features_BND: Tensor, text: TargetText, prompts: PackedText | None = None, queries: int | None = None
    ) -> dict[str, Tensor]:
        """Image features [B, N, W], targets, what `read` made of the prompts and what `draw` drew to {lm, total}: mean
        loss (nats) over the target tokens of all ranks."""
        return self.losses(self.soft_prompts(features_BND, prompts, queries=queries), text)

    def losses(self, prefix_BPD: Tensor, text: TargetText) -> dict[str, Tensor]:
        """forward's losses, from soft prompts that are made already."""
        losses_L, _ = self.language.loss(prefix_BPD, text)
        lm = self.objective(losses_L)["loss"]
        return {"lm": lm, "total": self.objective.weight * lm}
