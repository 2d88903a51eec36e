"""Honeybee's C-Abstractor (arXiv 2312.06742): convolutions over patches, averages over boxes, more convolutions.

Like the Q-Former it mixes patches; unlike the Q-Former, each output token keeps its place in the image. Honeybee's code
also adds a learned position to each patch; this one relies on the encoder's positions.

Legend: B images, N image tokens, D width of the convolutions, W image width, G patches along a side, H height and V
width of a map, T soft prompt tokens, P language model width.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.model.bridge import check_counts, soft_projection
from lit_blip2.model.patches import on_grid, pool_grid


class AbstractorBridge(nn.Module):
    """Convolutions, average pooling, convolutions, then two linear layers with a SiLU between them.

    The encoder's [CLS] token is not used.

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        num_tokens: number of soft prompt tokens; model/patches.py says over which boxes patches are averaged.
        hidden: width of the convolutions.
        layers: number of convolution blocks before the pooling, and the same number after it.
        projection_std: standard deviation of the last layer's initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
    """

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        num_tokens: int = 32,
        hidden: int = 1024,
        layers: int = 3,
        projection_std: float | None = None,
    ):
        super().__init__()
        check_counts(num_tokens=num_tokens, hidden=hidden, layers=layers)
        self.num_tokens = num_tokens
        self.ln_vision = nn.LayerNorm(vision_width, eps=1e-5)
        widths = [vision_width] + [hidden] * (2 * layers)
        blocks = [Block(before, after) for before, after in pairwise(widths)]
        self.patches, self.boxes = nn.Sequential(*blocks[:layers]), nn.Sequential(*blocks[layers:])
        self.expand = nn.Linear(hidden, language_width)
        self.projection = soft_projection(language_width, language_width, projection_std)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Soft prompt, float [B, T, P], of image features [B, N, W]."""
        patches_BWGG = on_grid(self.ln_vision(features_BND.float()).mT)
        boxes_BDHV = self.boxes(pool_grid(self.patches(patches_BWGG), self.num_tokens))
        return self.projection(F.silu(self.expand(boxes_BDHV.flatten(2).mT)))


class Block(nn.Module):
    """RegNet's bottleneck (arXiv 2003.13678), as in Honeybee: a depthwise 3 x 3 convolution between two 1 x 1
    convolutions, layer norms over channels, SiLU, and squeeze-and-excitation (arXiv 1709.01507) in the middle."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.enter, self.enter_norm = nn.Conv2d(width, hidden, 1, bias=False), ChannelNorm(hidden)
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.spread_norm = ChannelNorm(hidden)
        squeezed = max(1, round(width / 4))
        self.squeeze, self.excite = nn.Linear(hidden, squeezed), nn.Linear(squeezed, hidden)
        self.leave, self.leave_norm = nn.Conv2d(hidden, hidden, 1, bias=False), ChannelNorm(hidden)
        self.skip = None if width == hidden else nn.Conv2d(width, hidden, 1, bias=False)
        self.skip_norm = None if width == hidden else ChannelNorm(hidden)

    def forward(self, x_BWHV: Tensor) -> Tensor:
        """[B, W, H, V] to [B, D, H, V]."""
        out_BDHV = F.silu(self.enter_norm(self.enter(x_BWHV)))
        out_BDHV = F.silu(self.spread_norm(self.spread(out_BDHV)))
        gate_BD = self.excite(F.silu(self.squeeze(out_BDHV.mean((2, 3))))).sigmoid()
        out_BDHV = self.leave_norm(self.leave(out_BDHV * gate_BD[:, :, None, None]))
        beside_BDHV = x_BWHV if self.skip is None else self.skip_norm(self.skip(x_BWHV))
        return F.silu(out_BDHV + beside_BDHV)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each place of a map."""

    def forward(self, x_BDHV: Tensor) -> Tensor:
        return super().forward(x_BDHV.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
