"""A mixture of several data sets as training data."""

from pathlib import Path

from lit_blip2.data.annotations.entries import noting
from lit_blip2.data.batches.pairs import MixedPairs
from lit_blip2.data.module import PairData


class Mixture(PairData):
    """Trains on several data sets in exact proportions.

    A source contributes its training pairs alone. Image size, batch size, seed, augmentation and evaluation files are
    the mixture's.

    Args:
        sources: name -> data module, such as {coco: {class_path: COCO, init_args: {...}}}.
        root: folder that the mixture's own evaluation files start from; each source has its own root.
        weights: name -> share of a source's examples in training, in any unit; null: shares follow the number of
            images, so that every image comes equally often.
    """

    def __init__(
        self,
        sources: dict[str, PairData],
        root: str = "data/coco",
        weights: dict[str, float] | None = None,
        **kwargs,
    ):
        super().__init__(root=root, **kwargs)
        if not sources:
            raise ValueError("a mixture needs at least one source")
        if nested := [name for name, source in sources.items() if isinstance(source, Mixture)]:
            raise ValueError(f"{', '.join(nested)}: a mixture in a mixture. Name its sources beside the others instead")
        self.sources, self.weights = sources, weights
        for source in sources.values():
            source.augment = self.augment
            source.max_caption_words = self.max_caption_words
        if kept := [name for name, source in sources.items() if source.features]:
            raise ValueError(
                f"features of sources ({', '.join(kept)}): a mixture keeps its own, set only data.features"
            )

    def train_files(self) -> list[Path]:
        return [file for source in self.sources.values() for file in source.train_files()]

    def train_sections(self) -> list[str]:
        return [f"train_{name}" for name in self.sources]

    def train_pairs(self, faults: list[str] | None = None) -> MixedPairs | None:
        """The training pairs of all sources.

        With a list in `faults`, a source that cannot be read adds a line to the list and is left out. Without it, such
        a source raises an error. Returns None if no source is left.
        """
        pairs, weights = {}, self.weights
        for name, source in self.sources.items():
            source.image_size, source.interpolation = self.image_size, self.interpolation
            with noting(faults, source.train_files()):
                pairs[name] = source.train_pairs()
        if pairs and faults and weights:
            weights = {name: weight for name, weight in weights.items() if name in pairs}
        return MixedPairs(pairs, weights) if pairs else None
