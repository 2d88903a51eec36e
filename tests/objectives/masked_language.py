"""A fourth objective, as a user would add it: masked language modelling of captions that also see the image.

Legend: B captions, Q query tokens, L text tokens, D Q-Former width, V vocabulary, U uniform numbers of a row.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.distributed import global_mean
from lit_blip2.model import masks
from lit_blip2.model.passes import Pass

MASK = 4


class MLM(nn.Module):
    """A word is masked where its uniform number is below `share`; the text outputs must tell it. Long captions use
    their numbers again."""

    draws = 12

    def __init__(self, hidden: int, vocab_size: int, share: float = 0.5, weight: float = 1.0):
        super().__init__()
        self.head = nn.Linear(hidden, vocab_size)
        self.share, self.weight = share, weight

    def passes(self, shared, uniform_BU: Tensor) -> list[Pass]:
        text = shared.text
        ids_L = torch.where(self.masked(text, uniform_BU), MASK, text.ids_L)
        return [Pass(masks.BIDIRECTIONAL, image=shared.image, text=replace(text, ids_L=ids_L))]

    def loss(self, shared, outputs, uniform_BU: Tensor) -> Tensor:
        masked_L = self.masked(shared.text, uniform_BU)
        losses_L = F.cross_entropy(self.head(outputs[0].text_LD), shared.text.ids_L, reduction="none")
        return global_mean((losses_L * masked_L).sum(), masked_L.sum())

    def masked(self, text, uniform_BU: Tensor) -> Tensor:
        return uniform_BU[text.row_L, text.position_L % self.draws] < self.share
