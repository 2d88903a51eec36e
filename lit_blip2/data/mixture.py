"""Several data sets to train on at once."""

from pathlib import Path

from lit_blip2.data.annotations.entries import noting
from lit_blip2.data.batches.pairs import MixedPairs
from lit_blip2.data.module import PairData


class Mixture(PairData):
    """Trains on several sources in exact proportions; evaluates on its own files, as every data module does.

    Of a source only what says where its training pairs are is used: sizes, batches, seed, augmentation and files to
    evaluate on are the mixture's own.

    Args:
        sources: name -> data module.
        weights: name -> share, in any unit; null: by the number of images, so that all come equally often.
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
        """faults: gets what is wrong with each source, which is then left out; without it, that is raised. None where
        no source is left."""
        pairs, weights = {}, self.weights
        for name, source in self.sources.items():
            source.image_size, source.interpolation = self.image_size, self.interpolation
            with noting(faults, source.train_files()):
                pairs[name] = source.train_pairs()
        if pairs and faults and weights:
            weights = {name: weight for name, weight in weights.items() if name in pairs}
        return MixedPairs(pairs, weights) if pairs else None
