"""What an objective of stage 1 is, and what those of a step share: the batch, the image's keys and values, and what one
of them has made that another reads.

An objective's passes through the Q-Former join those of the others in one lockstep forward. Its loss is made of their
outputs.

Legend: B rows of this rank, N rows of the global batch, N image tokens, R sequences, Q query tokens, L text tokens,
D Q-Former width, W image width, U uniform numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from lit_blip2.model.passes import ImageKV, Output, Pass
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.text import PackedText


@dataclass
class Shared:
    """The named tensors of a step.

    features_BND: image features [B, N, W]. image: their keys and values. text: the captions. image_ids_B: int64.
    dec: id of [DEC]. longest: tokens of the longest caption that any rank may have.
    queries: the pass of the queries alone. Whoever needs it puts this very object among its passes: it runs once.
    reads_text: whether some objective reads text outputs of the lockstep forward.
    step: the optimiser step in training, counted from 0; None in evaluation.
    image_to_text_BN, text_to_image_BN: ITC's similarities over its temperature; None without ITC.
    """

    qformer: QFormer
    features_BND: Tensor
    image: ImageKV
    text: PackedText
    image_ids_B: Tensor
    dec: int
    longest: int
    queries: Pass
    step: int | None = None
    reads_text: bool = False
    image_to_text_BN: Tensor | None = None
    text_to_image_BN: Tensor | None = None
    outputs: list[Output] = field(default_factory=list)

    def run(self, passes: Sequence[Pass]) -> list[Output]:
        """The Q-Former's outputs of these passes."""
        outputs = self.qformer(passes) if passes else []
        self.outputs += outputs
        return outputs

    def zero(self) -> Tensor:
        """0, with a gradient of 0 for all that the passes used: DDP would miss parameters whose outputs no loss
        reads."""
        made = [x for output in self.outputs for x in output if x is not None]
        return 0 * sum(x.select(0, 0).sum() for x in made)


class Objective(Protocol):
    """A module that turns a step into a loss.

    weight: factor of its loss in the total. draws: uniform numbers that it takes for each row.
    """

    weight: float
    draws: int

    def passes(self, shared: Shared, uniform_BU: Tensor) -> list[Pass]:
        """What the loss needs of the lockstep forward. A pass whose text sees the queries alone (context=0) comes
        behind `shared.queries`, which is pass 0."""

    def loss(self, shared: Shared, outputs: Sequence[Output], uniform_BU: Tensor) -> Tensor:
        """The loss of the global batch, a scalar, from the outputs of `passes`."""
