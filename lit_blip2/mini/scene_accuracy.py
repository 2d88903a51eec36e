"""How true captions are of the mini-world's scenes, as a torchmetrics.Metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_blip2.evaluation.item_metric import RowMetric, ids_of, same_lengths
from lit_blip2.evaluation.items import Items
from lit_blip2.mini.scores import Score, score_caption
from lit_blip2.mini.world import Scene


class SceneAccuracy(RowMetric):
    """Precision and recall of the objects that captions describe, with all that is said of each (shape, colour, size,
    place), and the share of captions that are exact, 0..1: means over captions, by the rules of mini/scores.py.

    `compute` gives caption/{precision,recall,exact}.

    Args:
        styled: captions may be written in any style of mini/styles.py.

    Example:
        >>> metric = SceneAccuracy()
        >>> metric.update(["a red ring"], [scene])  # of mini/world.py, a red ring and a blue star
        >>> metric.compute()["caption/recall"]
        tensor(0.5000)
    """

    def __init__(self, styled: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.styled = styled

    def update(self, captions: Sequence[str], scenes: Sequence[Scene], image_ids: Sequence[int] | None = None) -> None:
        """A batch: of each image its caption, its scene and, for intervals, its id. Raises ValueError for unequal
        lengths; what cannot be read of a caption is wrong, and no error."""
        columns = same_lengths({"captions": captions, "scenes": scenes, "image_ids": image_ids})
        self.add((number, *score_caption(text, scene, self.styled)) for text, scene, number in zip(*columns))

    def scored(self) -> dict[str, Items]:
        image_ids, *columns = self.columns("captions")
        images = ids_of("image_ids", image_ids)
        return {f"caption/{name}": Items(np.array(each), images, images) for name, each in zip(Score._fields, columns)}
