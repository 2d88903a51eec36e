"""Flamingo's Perceiver resampler (arXiv 2204.14198, section 3.1): learned queries that attend to [image; queries].

It differs from the Q-Former in four ways: one attention covers image and queries, norms come before each layer, the
activation is a squared ReLU, and it reads no text. Flamingo's resampler has the encoder's width, so it does not project
the image; this one does.

Legend: B images, N image tokens, Q query tokens, K positions looked at (N + Q), D width, W image width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Resampler(nn.Module):
    """Turns image features into a fixed number of tokens.

    Args:
        vision_width: width of the image features.
        num_tokens: number of learned queries, which is the number of tokens per image.
        hidden: width of the resampler.
        layers: number of blocks.
        heads: number of attention heads; must divide hidden.
        intermediate: feed-forward width.
    Raises:
        ValueError: a size is below 1, or heads does not divide hidden; the message names all problems.
    """

    def __init__(
        self,
        vision_width: int,
        num_tokens: int = 32,
        hidden: int = 768,
        layers: int = 6,
        heads: int = 12,
        intermediate: int = 3072,
    ):
        super().__init__()
        sizes = dict(num_tokens=num_tokens, hidden=hidden, layers=layers, heads=heads, intermediate=intermediate)
        problems = [f"{name}={size} must be at least 1" for name, size in sizes.items() if size < 1]
        if heads >= 1 and hidden % heads:
            problems.append(f"hidden={hidden} cannot be split into heads={heads}: choose a multiple")
        if problems:
            raise ValueError("; ".join(problems))
        # The same name as in the Q-Former, so that they too get no weight decay. A norm follows: their scale is free.
        self.query_tokens = nn.Parameter(torch.empty(num_tokens, hidden))
        nn.init.normal_(self.query_tokens)
        self.ln_vision = nn.LayerNorm(vision_width, eps=1e-5)
        self.image = nn.Linear(vision_width, hidden)
        self.layers = nn.ModuleList(ResamplerLayer(hidden, heads, intermediate) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, features_BNW: Tensor) -> Tensor:
        """Tokens, float32 [B, Q, D], of image features [B, N, W] in any float dtype."""
        image_BND = self.image(self.ln_vision(features_BNW.float()))
        query_BQD = self.query_tokens.expand(len(image_BND), -1, -1)
        for layer in self.layers:
            query_BQD = layer(query_BQD, image_BND)
        return self.norm(query_BQD)


class ResamplerLayer(nn.Module):
    """Attention of the queries to image and queries, then a feed-forward, each with a residual."""

    def __init__(self, hidden: int, heads: int, intermediate: int):
        super().__init__()
        self.heads = heads
        self.query_norm, self.image_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.kv = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.output = nn.Linear(hidden, hidden)
        self.mlp_norm = nn.LayerNorm(hidden)
        self.expand, self.contract = nn.Linear(hidden, intermediate), nn.Linear(intermediate, hidden)

    def forward(self, query_BQD: Tensor, image_BND: Tensor) -> Tensor:
        """The updated queries [B, Q, D]."""
        query_BQD = query_BQD + self.look(self.query_norm(query_BQD), self.image_norm(image_BND))
        return query_BQD + self.contract(F.relu(self.expand(self.mlp_norm(query_BQD))).square())

    def look(self, query_BQD: Tensor, image_BND: Tensor) -> Tensor:
        """Attention of the queries over [image; queries], both already normalised: [B, Q, D]."""
        seen_BKD = torch.cat([image_BND, query_BQD], dim=1)
        query_BHQE = self.query(query_BQD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_BHKE, value_BHKE = self.kv(seen_BKD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out_BHQE = F.scaled_dot_product_attention(query_BHQE, key_BHKE, value_BHKE)
        return self.output(out_BHQE.transpose(1, 2).flatten(2))
