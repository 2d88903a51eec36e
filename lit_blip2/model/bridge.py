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
    """

    def __init__(self, vision_width: int, language_width: int, qformer: Callable[[int], QFormer]):
        super().__init__()
        self.qformer = qformer(vision_width)
        self.projection = nn.Linear(self.qformer.hidden, language_width)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Image features to a soft prompt [B, Q, P]."""
        image = self.qformer.project_image(features_BND)
        (output,) = self.qformer([Pass(masks.ITC, image=image)])
        return self.projection(output.query_RQD)
