"""ShuffleBridge (pixel shuffle; Idefics3, arXiv 2408.12637, and nanoVLM): the patches of a box are concatenated to one
token, and a linear layer maps it to the language model's width. Nothing is averaged.

Legend: B images, N image tokens, T soft prompt tokens, P language model width.
"""

from torch import Tensor, nn

from lit_blip2.model.bridge import soft_projection
from lit_blip2.model.patches import side_of, stack, whole_boxes


class ShuffleBridge(nn.Module):
    """Boxes of patches, each concatenated to one token, then one linear layer.

    Idefics3 and nanoVLM use square boxes and no bias. Here boxes may also be twice as wide as high, so that 8 x 8
    patches can give 32 tokens. With as many tokens as patches it equals LinearBridge. [CLS] is not used.

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        num_tokens: number of soft prompt tokens; the patches must divide into this number of equal boxes.
        side: number of patches along a side of the image: 16 for ViT-g at 224 pixels.
        projection_std: standard deviation of the linear layer's initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
    Raises:
        ValueError: num_tokens does not fit; the message lists numbers that do.
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
