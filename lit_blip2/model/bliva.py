"""BlivaBridge (BLIVA, arXiv 2308.09936): the soft prompt is the query outputs, followed by all patches, which pass
through a second linear layer.

Legend: B images, N image tokens, Q query tokens, G patches along a side, W image width, P language model width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_blip2.model import masks
from lit_blip2.model.bridge import soft_projection
from lit_blip2.model.patches import on_grid
from lit_blip2.model.qformer import Pass, QFormer


class BlivaBridge(nn.Module):
    """Query outputs and patches, each projected to the language model's width.

    BLIVA's Q-Former also reads the prompt (model/instructed.py); this one does not. The patches pass through the
    Q-Former's ln_vision. The queries attend to [CLS], but it is not among the patches.

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        qformer: the Q-Former, without text weights (vocab_size: null).
        projection_std: standard deviation of both projections' initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
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
        self.projection = soft_projection(self.qformer.hidden, language_width, projection_std)
        # The name starts like the other's, so that an lr_scale of net.bridge.projection covers both.
        self.projection_patches = soft_projection(vision_width, language_width, projection_std)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Soft prompt, float [B, Q + G * G, P]: queries, then patches row by row."""
        image = self.qformer.project_image(features_BND)
        (output,) = self.qformer([Pass(masks.UNIMODAL, image=image)])
        patches_BNW = on_grid(self.qformer.ln_vision(features_BND.float()).mT).flatten(2).mT
        return torch.cat([self.projection(output.query_RQD), self.projection_patches(patches_BNW)], dim=1)
