"""Image-text contrastive learning (paper, 3.1; docs/numerics.md, ITC).

Legend: B rows of this rank, N rows of the global batch, Q query tokens, D Q-Former width, P projection width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.distributed import gather
from lit_blip2.evaluation.retrieval import similarity
from lit_blip2.model import masks
from lit_blip2.model.passes import Output, Pass
from lit_blip2.objectives.objective import Shared

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5


class ITC(nn.Module):
    """Contrastive loss between the query outputs and the text's [CLS] output, projected to a shared space.

    The similarity of an image and a text is the largest cosine over the image's queries.

    Args:
        hidden: Q-Former width.
        projection: width of the shared space.
        temperature: start value of the learned temperature, which stays in [0.001, 0.5].
        label_smoothing: share (0 to 1) of the target that is spread evenly over the global batch.
        weight: factor of this loss in the total.
        gather_with_grad: whether the gradient also flows to the features of other rows and ranks that a row is
            compared with, as in the exact gradient of the global loss; false: it does not, as in LAVIS.
    Raises:
        ValueError: temperature or label_smoothing out of range.
    """

    draws = 0  # see Objective

    def __init__(
        self,
        hidden: int,
        projection: int = 256,
        temperature: float = 0.07,
        label_smoothing: float = 0.1,
        weight: float = 1.0,
        gather_with_grad: bool = True,
    ):
        super().__init__()
        if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
            raise ValueError(f"temperature={temperature} must lie in [{MIN_TEMPERATURE}, {MAX_TEMPERATURE}]")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        self.image_projection = nn.Linear(hidden, projection)
        self.text_projection = nn.Linear(hidden, projection)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.label_smoothing, self.weight, self.gather_with_grad = label_smoothing, weight, gather_with_grad
        for linear in (self.image_projection, self.text_projection):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def settings(self) -> dict[str, list[float]]:
        """Settings that change the output and are not visible in the weights' shapes."""
        return {"temperature_bounds": [MIN_TEMPERATURE, MAX_TEMPERATURE]}

    def project_image(self, query_BQD: Tensor) -> Tensor:
        """Query outputs [B, Q, D] to unit vectors, float32 [B, Q, P]."""
        return F.normalize(self.image_projection(query_BQD).float(), dim=-1)

    def project_text(self, text_BD: Tensor) -> Tensor:
        """[CLS] outputs [B, D] to unit vectors, float32 [B, P]."""
        return F.normalize(self.text_projection(text_BD).float(), dim=-1)

    def passes(self, shared: Shared, uniform_BU: Tensor) -> list[Pass]:
        """Two passes: queries alone, and captions alone, whose [CLS] output is used."""
        return [shared.queries, Pass(masks.UNIMODAL, text=shared.text, read="first")]

    def loss(self, shared: Shared, outputs: Sequence[Output], uniform_BU: Tensor) -> Tensor:
        """See Objective. Also stores the similarities in `shared`: ITM draws hard negatives by them."""
        queries, captions = outputs
        found = self(queries.query_RQD, captions.text_LD, shared.image_ids_B)
        shared.image_to_text_BN, shared.text_to_image_BN = found["image_to_text_BN"], found["text_to_image_BN"]
        return found["loss"]

    def forward(self, query_BQD: Tensor, text_BD: Tensor, image_ids_B: Tensor) -> dict[str, Tensor]:
        """Loss of the global batch, with negatives from all ranks.

        Args:
            query_BQD: query outputs. text_BD: [CLS] outputs.
            image_ids_B: int64; rows with the same image id match each other.
        Returns:
            loss, a scalar in nats; image_to_text_BN and text_to_image_BN, the similarities divided by the temperature.
        """
        image_BQP, text_BP = self.project_image(query_BQD), self.project_text(text_BD)
        image_NQP, text_NP, ids_N = gather(image_BQP), gather(text_BP), gather(image_ids_B)
        if not self.gather_with_grad:
            image_NQP, text_NP = image_NQP.detach(), text_NP.detach()
        with torch.no_grad():  # in place: a clamp in the graph would give a value outside the bounds no gradient
            self.temperature.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)
        temperature = self.temperature.clone()
        image_to_text_BN = similarity(image_BQP, text_NP) / temperature
        if self.gather_with_grad and len(image_NQP) == len(image_BQP):
            text_to_image_BN = image_to_text_BN.T
        else:
            text_to_image_BN = similarity(image_NQP, text_BP).T / temperature
        targets_BN = soft_targets(image_ids_B, ids_N, self.label_smoothing)
        loss = (_cross_entropy(image_to_text_BN, targets_BN) + _cross_entropy(text_to_image_BN, targets_BN)) / 2
        return {"loss": loss, "image_to_text_BN": image_to_text_BN, "text_to_image_BN": text_to_image_BN}


def soft_targets(ids_B: Tensor, ids_N: Tensor, label_smoothing: float) -> Tensor:
    """Targets of ITC, float [B, N]; each row sums to 1.

    The rows with the same image id share 1 - label_smoothing equally, and label_smoothing is spread over all N. If all
    ids differ, these are the usual one-hot targets with label smoothing.
    """
    equal_BN = (ids_B[:, None] == ids_N[None]).float()
    matches_BN = equal_BN / equal_BN.sum(1, keepdim=True)
    return (1 - label_smoothing) * matches_BN + label_smoothing / len(ids_N)


def _cross_entropy(logits_BN: Tensor, targets_BN: Tensor) -> Tensor:
    return -(targets_BN * logits_BN.float().log_softmax(dim=1)).sum(1).mean()
