"""Evaluation, what an evaluator knows of the current evaluation, and Losses, what it returns for a batch.

Legend: B rows, N image tokens, W image width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from lit_blip2.data.batches.examples import Examples


class Evaluation(NamedTuple):
    """What an evaluator must know of the current evaluation.

    command: fit, validate, test or predict.
    folder: the run's; None if there is none.
    first: whether this is the process that writes files.
    examples: solved questions to put in front of others; None for none.
    made_of: all that a prediction depends on beside the network and its decoding, for test and predict; empty where it
        is not known, because loaders were given in the place of a data module.
    """

    command: str
    folder: Path | None = None
    first: bool = True
    examples: "Examples | None" = None
    made_of: Sequence[str] = ()

    @property
    def tests(self) -> bool:
        return self.command == "test"

    @property
    def keeps_predictions(self) -> bool:
        """Whether predictions are kept while they are made, so that an interrupted evaluation goes on from them."""
        return self.folder is not None and self.command in ("test", "predict") and bool(self.made_of)


class Losses(NamedTuple):
    """The losses of an evaluation batch by name, their weighted sum, and the number of rows (or tokens) they are means
    over."""

    named: dict[str, Tensor]
    total: Tensor
    count: int


def names_of(batch: dict[str, Any]) -> list[str]:
    """The name of each row of a batch in messages: `question` or `image`, and the id that its file gives it. A rank
    without rows left has no names."""
    if "image_id" not in batch:
        return []
    what = "question" if "question_id" in batch else "image"
    own = batch["question_id"] if "question_id" in batch else batch["image_id"].tolist()
    return [f"{what} {name}" for name in batch.get("written_id", own)]


def image_features(vision: nn.Module, batch: dict[str, Any], name: str = "image") -> Tensor:
    """Image features [B, N, W] of `batch[name]`. They are stored in the batch, so that the encoder runs once."""
    key = "features" if name == "image" else name.replace("image", "features")
    if key not in batch:
        batch[key] = vision(batch[name])
    return batch[key]
