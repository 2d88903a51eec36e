"""Matryoshka queries: one training for every number of queries (arXiv 2405.19315). Each step trains the first m alone,
so that the first queries learn to carry most, and a test may take as many of them as it likes.

Legend: B images, N image tokens, Q query tokens that are used, D bridge width, P language model width.
"""

from collections.abc import Callable

from torch import Tensor, nn

from lit_blip2.keyed import step_uniform
from lit_blip2.model import masks
from lit_blip2.model.bridge import soft_projection
from lit_blip2.model.qformer import Pass, QFormer


class MatryoshkaBridge(nn.Module):
    """QFormerBridge, of whose queries a step trains the first m, m being drawn uniformly from 1 to all.

    Queries that are not used are not there: nobody sees them, so what the first m give is what a Q-Former with these m
    gives. Stage 1, which it starts from, trains all.

    Args:
        vision_width: width of the image features. language_width: width of the language model's input embeddings.
        qformer: the Q-Former, without its text half (vocab_size: null).
        first: queries that an evaluation uses; null: all. A test of a run says so by
            `--model.net.bridge.first=4 --model.allow_different=[first]`.
        projection_std: standard deviation of the projection's fresh weights; null: nn.Linear's. See QFormerBridge.
    Raises:
        ValueError: `first` that is no number of queries, or queries with a window each.
    """

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        qformer: Callable[[int], QFormer],
        first: int | None = None,
        projection_std: float | None = None,
    ):
        super().__init__()
        self.qformer, self.first = qformer(vision_width), first
        if self.qformer.windows:
            raise ValueError(
                "qformer.windows=true: the first queries would see the top of an image alone; set it to false"
            )
        if first is not None and not 1 <= first <= self.qformer.num_queries:
            raise ValueError(f"first={first} must lie in 1..{self.qformer.num_queries}, the number of queries")
        self.projection = soft_projection(self.qformer.hidden, language_width, projection_std)

    def draw(self, seed: int, step: int) -> int:
        """How many queries step `step` trains: the same on every rank and in every micro-batch."""
        return 1 + int(step_uniform(seed, step) * self.qformer.num_queries)

    def forward(self, features_BND: Tensor, first: int | None = None) -> Tensor:
        """Image features to a soft prompt [B, Q, P] of the first queries; None: of those that an evaluation uses."""
        image = self.qformer.project_image(features_BND)
        (output,) = self.qformer([Pass(masks.UNIMODAL, image=image)], first or self.first)
        return self.projection(output.query_RQD)
