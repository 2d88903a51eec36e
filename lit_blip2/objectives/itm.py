"""Image-text matching with hard negatives (paper, 3.1; docs/numerics.md, ITM).

Legend: B rows of this rank, N rows of the global batch, R pairs, T longest text, Q query tokens, D Q-Former width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.distributed import gather, global_mean, world_size
from lit_blip2.model import masks
from lit_blip2.model.passes import ImageKV, Output, Pass
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.objective import Shared


class ITM(nn.Module):
    """Match or no match: a two-class head over queries that attend to image and text.

    Args:
        hidden: Q-Former width.
        hard_negatives: draw negatives in proportion to their ITC similarity; false, or without ITC: uniformly.
        hard_negatives_from: first optimiser step (counted from 0) with hard negatives. Earlier steps draw uniformly,
            because ITC has not learned similarities yet. Evaluation draws as the last steps do.
        weight: factor of this loss in the total.
    Raises:
        ValueError: hard_negatives_from is negative, or set with hard_negatives=false.
    """

    draws = 2  # see Objective

    def __init__(self, hidden: int, hard_negatives: bool = True, hard_negatives_from: int = 0, weight: float = 1.0):
        super().__init__()
        if hard_negatives_from < 0:
            raise ValueError(f"hard_negatives_from={hard_negatives_from} must not be negative; 0 draws them throughout")
        if hard_negatives_from and not hard_negatives:
            raise ValueError(
                f"hard_negatives=false draws uniformly in all steps, and hard_negatives_from={hard_negatives_from} is "
                "the first that would not: set it to 0"
            )
        self.head = nn.Linear(hidden, 2)
        self.hard_negatives, self.hard_negatives_from, self.weight = hard_negatives, hard_negatives_from, weight
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def passes(self, shared: Shared, uniform_B2: Tensor) -> list[Pass]:
        """No passes: `loss` runs its own, because the negatives depend on ITC's similarities."""
        return []

    def loss(self, shared: Shared, outputs: Sequence[Output], uniform_B2: Tensor) -> Tensor:
        """See Objective. Pairs of (image, text): (i, i), (i, drawn text), (drawn image, i)."""
        texts_B, text_ok_B, images_B, image_ok_B = self._draw(shared, uniform_B2)
        other_text, other_image = negatives(shared, texts_B, images_B)
        # ITM needs no text outputs. If no other objective computes them, ITM does: DDP needs every parameter of the
        # last layer in use.
        read = "none" if shared.reads_text else "all"
        pairs = [
            Pass(masks.BIDIRECTIONAL, image=shared.image, text=shared.text, read=read),
            Pass(masks.BIDIRECTIONAL, image=shared.image, text=other_text, read=read),
            Pass(masks.BIDIRECTIONAL, image=other_image, text=shared.text, read=read),
        ]
        query_RQD = torch.cat([output.query_RQD for output in shared.run(pairs)])
        ids_B = shared.image_ids_B
        labels_R = torch.cat([torch.ones_like(ids_B), torch.zeros_like(ids_B), torch.zeros_like(ids_B)])
        weights_R = torch.cat([torch.ones_like(text_ok_B), text_ok_B, image_ok_B])
        return self(query_RQD, labels_R, weights_R)["loss"]

    def _draw(self, shared: Shared, uniform_B2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draws negatives: for each image the index of a text in the global batch, int64 [B], and float [B], 0 if there
        is none to draw; then the same for each text and an image."""
        ids_B, ids_N = shared.image_ids_B, gather(shared.image_ids_B)
        image_to_text_BN, text_to_image_BN = shared.image_to_text_BN, shared.text_to_image_BN
        if image_to_text_BN is None or not self._draws_hard(shared.step):
            image_to_text_BN = text_to_image_BN = torch.zeros(len(ids_B), len(ids_N), device=ids_B.device)
        texts = draw_negatives(image_to_text_BN, ids_B, ids_N, uniform_B2[:, 0])
        return *texts, *draw_negatives(text_to_image_BN, ids_B, ids_N, uniform_B2[:, 1])

    def _draws_hard(self, step: int | None) -> bool:
        return self.hard_negatives and (step is None or step >= self.hard_negatives_from)

    def logits(self, query_RQD: Tensor) -> Tensor:
        """Two logits of each pair, [R, 2], averaged over the queries; class 1 is a match."""
        return self.head(query_RQD).mean(dim=1)

    def forward(self, query_RQD: Tensor, labels_R: Tensor, weights_R: Tensor) -> dict[str, Tensor]:
        """Cross-entropy averaged over the pairs of all ranks, a scalar in nats.

        Args:
            query_RQD: query outputs of the pairs.
            labels_R: int64, 1 for a match, else 0. weights_R: float, 1; 0 leaves a pair out.
        """
        losses_R = F.cross_entropy(self.logits(query_RQD).float(), labels_R, reduction="none")
        return {"loss": global_mean((losses_R * weights_R).sum(), weights_R.sum())}


def draw_negatives(logits_BN: Tensor, ids_B: Tensor, ids_N: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one negative for each row, by softmax(logits) over the columns with another image id.

    Args:
        logits_BN: similarities divided by the temperature.
        ids_B: image ids of the rows, int64. ids_N: image ids of the columns, int64.
        uniform_B: a uniform number in [0, 1) for each row.
    Returns:
        the column drawn, int64 [B]; and float [B], 0 if every column matches the row (the column is then 0), else 1.
    """
    excluded_BN = ids_B[:, None] == ids_N[None]
    weights_BN = logits_BN.detach().float().masked_fill(excluded_BN, -torch.inf).softmax(dim=1).double().nan_to_num(0)
    cumulative_BN = weights_BN.cumsum(dim=1)
    total_B = cumulative_BN[:, -1]
    # An excluded column has no width. right=True and a point strictly below the total keep it from being drawn.
    point_B = torch.minimum(uniform_B.double() * total_B, total_B * (1 - 1e-9))
    drawn_B = torch.searchsorted(cumulative_BN, point_B[:, None], right=True).squeeze(1)
    possible_B = total_B > 0
    return torch.where(possible_B, drawn_B, 0), possible_B.float()


def negatives(shared: Shared, texts_B: Tensor, images_B: Tensor) -> tuple[PackedText, ImageKV]:
    """The drawn texts, and the keys and values of the drawn images. Ranks exchange image features, which are smaller,
    and compute keys and values from them."""
    if world_size() == 1:
        return shared.text.select(texts_B), shared.image.select(images_B)
    ids_NT, lengths_N = gather(shared.text.padded(shared.longest)), gather(shared.text.lengths_B)
    others = PackedText.from_padded(ids_NT[texts_B], lengths_N[texts_B])
    return others, shared.qformer.project_image(gather(shared.features_BND)[images_B])
