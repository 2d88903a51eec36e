"""Metrics of pairs, answers and captions as torchmetrics.Metrics, usable in any loop (docs/metrics.md)."""

from typing import Any

from torch import Tensor

from lit_blip2.evaluation.binding import binding_items
from lit_blip2.evaluation.item_metric import ItemMetric, same_lengths
from lit_blip2.evaluation.items import Items


class BindingAccuracy(ItemMetric):
    """How often a caption scores higher with its image than with one whose attributes are swapped, 0..1; a tie counts
    half, so chance is 0.5. `compute` gives {"binding/itc_accuracy": scalar}.

    The states are the scores of all pairs, on their device: `update` waits for no GPU.

    Args:
        score: what scores the pairs, as it stands in the metric's name.

    Example:
        >>> metric = BindingAccuracy()
        >>> metric.update(torch.tensor([0.9, 0.4]), torch.tensor([0.1, 0.6]))  # {"binding/itc_accuracy": 0.5}
    """

    def __init__(self, score: str = "itc", **kwargs: Any):
        super().__init__(**kwargs)
        self.score = score
        for state in ("true", "swapped", "image_ids", "ids"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self, true_B: Tensor, swapped_B: Tensor, image_ids_B: Tensor | None = None, ids_B: Tensor | None = None
    ) -> None:
        """A batch of pairs: scores with the true and with the swapped image, float [B].

        image_ids, ids: int64 [B], the true image of each pair and a number of the pair's own, for intervals.
        Raises ValueError for unequal lengths; `compute` raises it for nan and for no pairs.
        """
        given = {"true": true_B, "swapped": swapped_B, "image_ids": image_ids_B, "ids": ids_B}
        same_lengths(given)
        for state, each_B in given.items():
            if each_B is not None:
                getattr(self, state).append(each_B)

    def scored(self) -> dict[str, Items]:
        if (true_P := self.joined("true")) is None:
            raise ValueError("there are no pairs to score: call update before compute")
        images, ids = (self.numbers(state, len(true_P)) for state in ("image_ids", "ids"))
        swapped_P = self.joined("swapped")
        return {f"binding/{self.score}_accuracy": binding_items(true_P.cpu(), swapped_P.cpu(), images, ids)}
