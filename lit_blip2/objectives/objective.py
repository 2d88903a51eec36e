"""Objective, the interface of stage 1's objectives, and Shared, the tensors that the objectives of a step share.

An objective lists its passes through the Q-Former. The passes of all objectives run together in one forward, and each
loss is computed from the outputs of its own passes.

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
    """The tensors of a step, shared by all objectives.

    qformer: the Q-Former. features_BND: image features [B, N, W]. image: keys and values made from them.
    text: the captions. image_ids_B: int64. dec: token id of [DEC]. longest: length in tokens that no caption exceeds.
    queries: the pass of the queries alone. An objective that needs it returns this object in `passes`, so that it runs
    only once. reads_text: whether an objective uses text outputs of the common forward.
    step: optimiser step in training, counted from 0; None in evaluation.
    image_to_text_BN, text_to_image_BN: ITC's similarities divided by its temperature; None without ITC.
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
        """Run the passes, and return one output for each."""
        outputs = self.qformer(passes) if passes else []
        self.outputs += outputs
        return outputs

    def zero(self) -> Tensor:
        """A scalar 0 that depends on every output, so that DDP finds a gradient (0) for parameters no loss uses."""
        made = [x for output in self.outputs for x in output if x is not None]
        return 0 * sum(x.select(0, 0).sum() for x in made)


class Objective(Protocol):
    """A module that computes one loss of stage 1.

    weight: factor of the loss in the total. draws: how many uniform random numbers it needs for each row.
    """

    weight: float
    draws: int

    def passes(self, shared: Shared, uniform_BU: Tensor) -> list[Pass]:
        """The passes that the loss needs. If a pass attends to the queries of pass 0 (context=0), also return
        `shared.queries`, before it: this is always pass 0."""

    def loss(self, shared: Shared, outputs: Sequence[Output], uniform_BU: Tensor) -> Tensor:
        """The loss of the global batch, a scalar, from the outputs of `passes`, in their order."""
