"""Matryoshka queries (arXiv 2405.19315): one training for every number of queries. Each step trains only the first m
queries, so the first ones learn the most important content, and a test may use any number of them.

Legend: B images, N image tokens, Q query tokens that are used, D bridge width, P language model width.
"""

from collections.abc import Callable

from torch import Tensor, nn

from lit_blip2.keyed import step_uniform
from lit_blip2.model import masks
from lit_blip2.model.bridge import soft_projection
from lit_blip2.model.qformer import Pass, QFormer


class MatryoshkaBridge(nn.Module):
    """A QFormerBridge that trains the first m queries in each step, with m drawn uniformly from 1 to all.

    The other queries do not take part in attention: the outputs are those of a Q-Former with m queries. The stage 1
    that it starts from trains all queries.

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        qformer: the Q-Former, without text weights (vocab_size: null).
        first: number of queries that evaluation uses; null: all. To test a run with 4 queries, add
            `--model.net.bridge.first=4 --model.allow_different=[first]`.
        projection_std: standard deviation of the projection's initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
    Raises:
        ValueError: `first` is out of range, or the Q-Former has windows=true.
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
        """The number of queries that a step trains: the same on every rank and in every micro-batch."""
        return 1 + int(step_uniform(seed, step) * self.qformer.num_queries)

    def forward(self, features_BND: Tensor, first: int | None = None) -> Tensor:
        """Soft prompt, float [B, Q, P], of the `first` queries; None: of those that evaluation uses."""
        image = self.qformer.project_image(features_BND)
        (output,) = self.qformer([Pass(masks.UNIMODAL, image=image)], first or self.first)
        return self.projection(output.query_RQD)
