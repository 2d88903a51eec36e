"""Both stages at once: one Q-Former serves ITC, ITM, ITG and the language model's loss, in one step from one batch.

                        images --> keys and values (once)
    lockstep:   [queries]            serves ITC, ITG and, projected to a soft prompt, the language model
                [text]               ITC
                [text], sees queries ITG
    then:       [queries; text] x 3  ITM

The paper trains one stage after the other; ablations compare that with this.

Legend: B images, N image tokens, Q query tokens, D Q-Former width, W image width, U uniform numbers.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from lit_blip2.model.bridge import QFormerBridge
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.target_text import TargetText
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM
from lit_blip2.objectives.lm import LM, PrefixLM
from lit_blip2.objectives.objective import Objective
from lit_blip2.objectives.stage1 import Stage1
from lit_blip2.objectives.stage2 import Stage2
from lit_blip2.paths import run_all


class Joint(nn.Module):
    """A Stage1 and a Stage2 that share image encoder and Q-Former. An objective set to null is not computed.

    Without ITC, ITM and ITG `stage1` is None, and the Q-Former has no text weights. Without LM `stage2` is None.

    Args:
        vision: image encoder.
        qformer: Q-Former; it is built with the encoder's width.
        tokenizer: folder of the Q-Former's tokenizer (bert-base-uncased).
        language: language model; not loaded if lm is null.
        itc: image-text contrastive learning; null: off.
        itm: image-text matching; null: off.
        itg: image-grounded text generation; null: off.
        lm: loss of the language model, LM, or PrefixLM for an encoder-decoder; null: off.
        prompt: text before each caption, in training and for captioning; it is never a target.
        projection_std: standard deviation of the initial weights of the projection to the language model; null: as in
            QFormerBridge.
        max_text_tokens: longest caption for the Q-Former in tokens, [CLS] and [SEP] included; longer ones are cut.
        more_objectives: further stage-1 objectives by name, as in Stage1; null: none.
    Raises:
        ValueError: no objective is on, or Stage1 or Stage2 raises it.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        qformer: Callable[[int], QFormer],
        tokenizer: str,
        language: LanguageModel,
        itc: Callable[[int], ITC] | None = None,
        itm: Callable[[int], ITM] | None = None,
        itg: Callable[[int, int], ITG] | None = None,
        lm: LM | PrefixLM | None = None,
        prompt: str = "",
        projection_std: float | None = None,
        max_text_tokens: int = 32,
        more_objectives: Mapping[str, Callable[[int, int], nn.Module] | None] | None = None,
    ):
        super().__init__()
        representation = (itc, itm, itg, *(more_objectives or {}).values())
        if all(each is None for each in (*representation, lm)):
            raise ValueError("itc, itm, itg and lm are all null: joint training needs at least one objective")
        if all(each is None for each in representation):
            stage1, self.qformer = None, qformer(vision.width, vocab_size=None)
        else:
            stage1 = Stage1(vision, qformer, tokenizer, itc, itm, itg, max_text_tokens, more_objectives)
            self.qformer = stage1.qformer
        # Encoder and Q-Former are registered first, so that their names in checkpoints do not depend on what is on.
        self.vision, self.stage1, self.stage2 = vision, stage1, None
        if lm is not None:
            bridge = partial(QFormerBridge, qformer=lambda width: self.qformer, projection_std=projection_std)
            self.stage2 = Stage2(vision, language, bridge, lm, prompt)

    def load(self, vision: bool = True) -> None:
        """Read tokenizers, language model and, with `vision`, the image encoder from disk. Raises FileNotFoundError."""
        stages = [stage for stage in (self.stage1, self.stage2) if stage is not None]
        run_all(*(partial(stage.load, vision=False) for stage in stages), *([self.vision.load] if vision else []))

    def load_tokenizers(self) -> None:
        """Read only the tokenizers from disk."""
        run_all(*(stage.load_tokenizers for stage in (self.stage1, self.stage2) if stage is not None))

    @property
    def objectives(self) -> dict[str, Objective | LM | PrefixLM]:
        """The objectives of both stages that are on, by the name of their loss."""
        stages = [stage for stage in (self.stage1, self.stage2) if stage is not None]
        return {name: objective for stage in stages for name, objective in stage.objectives.items()}

    def forward(
        self,
        features_BND: Tensor,
        image_ids_B: Tensor,
        text: PackedText | None = None,
        uniform_BU: Tensor | None = None,
        target: TargetText | None = None,
        step: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the global batch.

        Args:
            features_BND: image features, float [B, N, W].
            image_ids_B: int64.
            text: captions for stage 1. uniform_BU: float, Stage1.draws uniform numbers in [0, 1) for each row.
            target: targets of the language model.
            step: optimiser step in training; None in evaluation.
        Returns:
            the loss of each objective that is on (itc, itm, itg, lm, ...) and total, their weighted sum; scalars.
        """
        if self.stage1 is None:
            return self.stage2(features_BND, target)
        on = self.stage2 is not None
        losses, query_BQD = self.stage1.losses(features_BND, text, image_ids_B, uniform_BU, step, reads_queries=on)
        if on:
            second = self.stage2.losses(self.stage2.bridge.projection(query_BQD), target)
            losses |= second | {"total": losses["total"] + second["total"]}
        return losses
