"""From image features to a soft prompt for the language model (paper, 3.2).

Legend: B images, N image tokens, Q query tokens, D Q-Former width, P language model width.
"""

from collections.abc import Callable

from torch import Tensor, nn

from lit_blip2 import masks
from lit_blip2.model.qformer import Pass, QFormer


class QFormerBridge(nn.Module):
    """Query outputs, projected to the language model's width.

    Args:
        vision_width: width of the image features. language_width: width of the language model's input embeddings.
        qformer: the Q-Former, without its text half (vocab_size: null).
        projection_std: deviation of the projection's fresh weights; null: nn.Linear's start, as the original has it.
            A soft prompt far longer than word embeddings drowns what the language model's layers add to it.
    """

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        qformer: Callable[[int], QFormer],
        projection_std: float | None = None,
    ):
        super().__init__()
        self.qformer = qformer(vision_width)
        self.projection = nn.Linear(self.qformer.hidden, language_width)
        if projection_std is not None:
            nn.init.normal_(self.projection.weight, std=projection_std)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Image features to a soft prompt [B, Q, P]."""
        image = self.qformer.project_image(features_BND)
        (output,) = self.qformer([Pass(masks.ITC, image=image)])
        return self.projection(output.query_RQD)
