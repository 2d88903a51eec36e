"""Pixel shuffle: the patches of a box become one token, one behind the other, and a linear layer makes it as wide as
the language model (Idefics3, arXiv 2408.12637; nanoVLM's modality projector). Nothing is averaged.

Legend: B images, N image tokens, T soft prompt tokens, P language model width.
"""

from torch import Tensor, nn

from lit_blip2.model.bridge import soft_projection
from lit_blip2.model.patches import side_of, stack, whole_boxes


class ShuffleBridge(nn.Module):
    """Boxes of patches, each stacked to one token, then one linear layer.

    The two of the literature take square boxes and a layer without a bias; here boxes may be twice as wide as high, so
    that 8 x 8 patches give 32 tokens too. With as many tokens as patches it is LinearBridge. [CLS] is left out.

    Args:
        vision_width: width of the image features. language_width: width of the language model's input embeddings.
        num_tokens: tokens of the soft prompt: as many boxes of one size as the patches can be cut into.
        side: patches along a side of the image, which say how wide a stack is: 16 for ViT-g at 224 pixels.
        projection_std: standard deviation of the linear layer's fresh weights; null: nn.Linear's. See QFormerBridge.
    Raises:
        ValueError: a number of tokens that does not fit, with those that do.
    """

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        num_tokens: int = 64,
        side: int = 16,
        projection_std: float | None = None,
    ):
        super().__init__()
        whole_boxes(num_tokens, side)
        self.num_tokens, self.side = num_tokens, side
        self.ln_vision = nn.LayerNorm(vision_width, eps=1e-5)
        self.projection = soft_projection(vision_width * side * side // num_tokens, language_width, projection_std)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Image features to a soft prompt [B, T, P]. Raises ValueError for an image of more patches or fewer."""
        if (side := side_of(features_BND.shape[1])) != self.side:
            raise ValueError(
                f"an image has {side} x {side} patches, and this bridge was built for side={self.side}: "
                f"set bridge.side={side}"
            )
        return self.projection(stack(self.ln_vision(features_BND.float()), self.num_tokens))
