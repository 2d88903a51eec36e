"""Bridges, which turn image features into a soft prompt for the language model: the Q-Former (BLIP-2 paper, 3.2), and
simpler ones to compare it with. Further bridges: abstractor.py, shuffle.py, and with a Q-Former bliva.py,
matryoshka.py, instructed.py. `class_path` chooses one. Only a Q-Former can start from stage 1 or BERT (init_from):

    model:
      init_args:
        init_from: null
        net:
          bridge: {class_path: lit_blip2.model.bridge.LinearBridge, init_args: {num_tokens: 32}}

Every bridge begins with a trainable LayerNorm, ln_vision: the encoder's output has none (docs/numerics.md, Image
encoder).

Legend: B images, N image tokens, Q query tokens, T soft prompt tokens, D bridge width, P language model width.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.model import masks
from lit_blip2.model.patches import pool
from lit_blip2.model.qformer import Pass, QFormer
from lit_blip2.model.resampler import Resampler


class QFormerBridge(nn.Module):
    """The paper's bridge: query outputs of a Q-Former, projected to the language model's width.

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        qformer: the Q-Former, without text weights (vocab_size: null).
        projection_std: standard deviation of the projection's initial weights; null: nn.Linear's own initialisation,
            as in LAVIS. If soft prompt vectors have a much larger norm than word embeddings, they outweigh what the
            language model's layers add to them.
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

    def forward(self, features_BND: Tensor) -> Tensor:
        """Soft prompt, float [B, Q, P], of image features [B, N, width]."""
        image = self.qformer.project_image(features_BND)
        (output,) = self.qformer([Pass(masks.UNIMODAL, image=image)])
        return self.projection(output.query_RQD)


class LinearBridge(nn.Module):
    """Averages over boxes of patches, then one linear layer.

    With as many tokens as patches, and without the norm, it is LLaVA's bridge (arXiv 2304.08485).

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        num_tokens: tokens of the soft prompt; model/patches.py says how the patches are averaged.
        projection_std: standard deviation of the linear layer's initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
    """

    def __init__(
        self, vision_width: int, language_width: int, num_tokens: int = 32, projection_std: float | None = None
    ):
        super().__init__()
        check_counts(num_tokens=num_tokens)
        self.num_tokens = num_tokens
        self.ln_vision = nn.LayerNorm(vision_width, eps=1e-5)
        self.projection = soft_projection(vision_width, language_width, projection_std)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Soft prompt, float [B, T, P], of image features [B, N, width]."""
        return self.projection(pool(self.ln_vision(features_BND.float()), self.num_tokens))


class MLPBridge(nn.Module):
    """Averages over boxes of patches, then two linear layers with a GELU between them, as in DeCo (arXiv 2405.20985).

    With as many tokens as patches, and without the norm, it is LLaVA-1.5's bridge (arXiv 2310.03744).

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        num_tokens: tokens of the soft prompt; model/patches.py says how the patches are averaged.
        hidden: width between the two layers; null: the language model's width.
        projection_std: standard deviation of the second layer's initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
    """

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        num_tokens: int = 32,
        hidden: int | None = None,
        projection_std: float | None = None,
    ):
        super().__init__()
        hidden = language_width if hidden is None else hidden
        check_counts(num_tokens=num_tokens, hidden=hidden)
        self.num_tokens = num_tokens
        self.ln_vision = nn.LayerNorm(vision_width, eps=1e-5)
        self.expand = nn.Linear(vision_width, hidden)
        self.projection = soft_projection(hidden, language_width, projection_std)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Soft prompt, float [B, T, P], of image features [B, N, width]."""
        pooled_BTD = pool(self.ln_vision(features_BND.float()), self.num_tokens)
        return self.projection(F.gelu(self.expand(pooled_BTD)))


class ResamplerBridge(nn.Module):
    """Flamingo's Perceiver resampler (arXiv 2204.14198, 3.1), projected to the language model's width.

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        num_tokens: number of learned queries, which is the number of soft prompt tokens.
        hidden: width of the resampler.
        layers: number of blocks.
        heads: number of attention heads; must divide hidden.
        intermediate: feed-forward width.
        projection_std: standard deviation of the projection's initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
    """

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        num_tokens: int = 32,
        hidden: int = 768,
        layers: int = 6,
        heads: int = 12,
        intermediate: int = 3072,
        projection_std: float | None = None,
    ):
        super().__init__()
        self.resampler = Resampler(vision_width, num_tokens, hidden, layers, heads, intermediate)
        self.projection = soft_projection(hidden, language_width, projection_std)

    def forward(self, features_BND: Tensor) -> Tensor:
        """Soft prompt, float [B, T, P], of image features [B, N, width]."""
        return self.projection(self.resampler(features_BND))


def soft_projection(width: int, language_width: int, std: float | None) -> nn.Linear:
    """A linear layer to the language model's width. std: standard deviation of its initial weights; None: nn.Linear's
    own initialisation."""
    projection = nn.Linear(width, language_width)
    if std is not None:
        nn.init.normal_(projection.weight, std=std)
    return projection


def check_counts(**counts: int) -> None:
    """Raises ValueError, with their names, for counts below 1."""
    if problems := [f"{name}={count} must be at least 1" for name, count in counts.items() if count < 1]:
        raise ValueError("; ".join(problems))
