"""Image-text matching with hard negatives (paper, 3.1; NUMERICS, ITM).

Legend: B rows of this rank, N rows of the global batch, R pairs, Q query tokens, D Q-Former width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.distributed import global_mean


class ITM(nn.Module):
    """A two-class head over the queries that have seen image and text.

    Args:
        hidden: Q-Former width.
        hard_negatives: draw negatives by ITC similarity; false, or no ITC: uniformly.
        weight: factor of this loss in the total.
    """

    def __init__(self, hidden: int, hard_negatives: bool = True, weight: float = 1.0):
        super().__init__()
        self.head = nn.Linear(hidden, 2)
        self.hard_negatives, self.weight = hard_negatives, weight
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def logits(self, query_RQD: Tensor) -> Tensor:
        """Mean over queries of the head's two logits: [R, 2]; class 1 is a match."""
        return self.head(query_RQD).mean(dim=1)

    def forward(self, query_RQD: Tensor, labels_R: Tensor, weights_R: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over the pairs of all ranks.

        Args: query outputs of the pairs; labels int64 (1 match); weights float, 0 drops a pair.
        """
        losses_R = F.cross_entropy(self.logits(query_RQD).float(), labels_R, reduction="none")
        return {"loss": global_mean((losses_R * weights_R).sum(), weights_R.sum())}


def draw_negatives(logits_BN: Tensor, ids_B: Tensor, ids_N: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """One negative per row from softmax(logits), true matches (equal ids) excluded.

    Args: similarities over temperature; image ids of rows and columns; a uniform number in [0, 1) per row.
    Returns: columns drawn, int64 [B]; float [B], 0 where nothing but matches was left to draw from (column 0 then).
    """
    excluded_BN = ids_B[:, None] == ids_N[None]
    weights_BN = logits_BN.detach().float().masked_fill(excluded_BN, -torch.inf).softmax(dim=1).double().nan_to_num(0)
    cumulative_BN = weights_BN.cumsum(dim=1)
    total_B = cumulative_BN[:, -1]
    # Strictly below the total, and right=True: an excluded column has no width and is never hit.
    point_B = torch.minimum(uniform_B.double() * total_B, total_B * (1 - 1e-9))
    drawn_B = torch.searchsorted(cumulative_BN, point_B[:, None], right=True).squeeze(1)
    possible_B = total_B > 0
    return torch.where(possible_B, drawn_B, 0), possible_B.float()
