"""Stage 2: a bridge turns an image into a soft prompt, from which a language model generates the caption (paper, 3.2).

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
    """Image encoder, bridge and language model. The bridge trains; the others train if they are not frozen.

    Args:
        vision: image encoder.
        language: language model.
        bridge: module that turns image features into a soft prompt; it is built with (encoder width, language model
            width).
        objective: loss, LM, or PrefixLM, which the paper uses for encoder-decoders.
        prompt: text before each caption, in training and for captioning; it is never a target.
    Raises:
        ValueError: negative weight, or an empty prompt for a bridge that reads prompts.
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
        """The objective, by the name of its loss."""
        return {"lm": self.objective}

    def load(self, vision: bool = True) -> None:
        """Read the language model, tokenizers and, with `vision`, the image encoder from disk. Raises
        FileNotFoundError."""
        run_all(self.language.load, self.load_tokenizers, *([self.vision.load] if vision else []))

    def load_tokenizers(self) -> None:
        """Read only the tokenizers from disk."""
        run_all(self.language.load_tokenizer, *([self.bridge.load] if self.reads_prompts else []))

    @property
    def reads_prompts(self) -> bool:
        """Whether the soft prompt of an image depends on the language model's prompt."""
        return isinstance(self.bridge, InstructedBridge)

    def read(self, prompts: Sequence[str]) -> PackedText | None:
        """The prompts as token ids for the bridge, on the CPU; None for a bridge that reads no prompts."""
        return self.bridge.read(prompts) if self.reads_prompts else None

    def draw(self, seed: int, step: int) -> int | None:
        """The number of queries that a MatryoshkaBridge trains with in this step; None for other bridges."""
        return self.bridge.draw(seed, step) if isinstance(self.bridge, MatryoshkaBridge) else None

    def soft_prompts(
        self,
        features_BND: Tensor,
        prompts: PackedText | None = None,
        image_R: Tensor | None = None,
        queries: int | None = None,
    ) -> Tensor:
        """Soft prompts, float [R, P, D]. Each image is encoded once.

        Args:
            features_BND: image features, float [B, N, W].
            prompts: R prompts from `read`, for a bridge that reads them.
            image_R: int64, the index of each row's image; None: row i belongs to image i.
            queries: the number of queries from `draw`; None: those that evaluation uses.
        """
        if prompts is not None:
            return self.bridge(features_BND, prompts, image_R)
        prefix_BPD = self.bridge(features_BND) if queries is None else self.bridge(features_BND, queries)
        return prefix_BPD if image_R is None else prefix_BPD[image_R]

    def forward(
        self, features_BND: Tensor, text: TargetText, prompts: PackedText | None = None, queries: int | None = None
    ) -> dict[str, Tensor]:
        """Losses of the global batch: {"lm": mean over the target tokens in nats, "total": weighted}, scalars.

        Args: image features [B, N, W]; targets; the results of `read` and `draw`.
        """
        return self.losses(self.soft_prompts(features_BND, prompts, queries=queries), text)

    def losses(self, prefix_BPD: Tensor, text: TargetText) -> dict[str, Tensor]:
        """The losses of `forward`, from soft prompts [B, P, D]."""
        losses_L, _ = self.language.loss(prefix_BPD, text)
        lm = self.objective(losses_L)["loss"]
        return {"lm": lm, "total": self.objective.weight * lm}
