"""Image-text pairs to train on, by number. A source says which order it is read in, draws a caption, gives an image."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from lit_blip2.data.captions import Captions
from lit_blip2.data.datasets import Features, Pixels
from lit_blip2.data.mixing import Mix, WindowShuffle
from lit_blip2.data.order import Order, Shuffle
from lit_blip2.data.shards import Shards
from lit_blip2.data.transforms import eval_transform, train_transform

ID_SPACE = 1 << 44  # image ids of one source of a mixture: more than any source's ids


class PairSource(Protocol):
    """N pairs. kind: what a view is called in a batch, "image" or "features"."""

    kind: str
    order: Order

    def __len__(self) -> int: ...

    def image_id(self, sample: int) -> int: ...

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        """One of its captions; one draw from `rng`."""

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        """float32 [3, size, size], or float16 [tokens, width]. UnreadableImageError or FileNotFoundError: no image."""

    def another(self, sample: int, rng: np.random.Generator) -> int:
        """One to put in its place."""

    def origin(self, sample: int) -> str:
        """What its source is called."""


class FilePairs:
    """Images in files, or kept features of them, with captions in memory; read in any order.

    group: this many consecutive images stay in one batch.
    """

    def __init__(self, name: str, captions: Captions, images: Pixels | Features, group: int = 1):
        self.name, self.captions, self.images = name, captions, images
        self.kind, self.order = images.name, Shuffle(len(captions), group)

    def __len__(self) -> int:
        return len(self.captions)

    def image_id(self, sample: int) -> int:
        return int(self.captions.image_ids[sample])

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        return self.captions.draw(sample, rng)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        return self.images.load([self.captions.files[sample]], self.captions.image_ids[[sample]], [rng])[0]

    def another(self, sample: int, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self)))

    def origin(self, sample: int) -> str:
        return self.name


class ShardPairs:
    """Images and captions in tar shards; read in windows of shards. An image's id is its number."""

    kind = "image"

    def __init__(self, name: str, shards: Shards, size: int, augment: bool):
        self.name, self.shards, self.size, self.augment = name, shards, size, augment
        self.order = WindowShuffle(shards.sizes)

    def __len__(self) -> int:
        return len(self.shards)

    def image_id(self, sample: int) -> int:
        return sample

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        return self.shards.draw(sample, rng)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        image = self.shards.image(sample)
        return train_transform(image, self.size, rng) if self.augment else eval_transform(image, self.size)

    def another(self, sample: int, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self)))

    def origin(self, sample: int) -> str:
        return self.name


class MixedPairs:
    """Several sources, in exact proportions (mixing.Mix). Image ids of different sources never meet.

    Raises ValueError for sources of which some give images and some features, and wherever Mix does.
    """

    def __init__(self, sources: Mapping[str, PairSource], weights: Mapping[str, float] | None = None):
        kinds = {name: source.kind for name, source in sources.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError(f"sources of images and sources of features cannot be mixed: {kinds}")
        if weights is not None and weights.keys() != sources.keys():
            raise ValueError(f"weights are of {', '.join(weights)}; sources are {', '.join(sources)}")
        self.sources, self.names, self.kind = list(sources.values()), list(sources), next(iter(kinds.values()))
        given = None if weights is None else [weights[name] for name in self.names]
        self.order = Mix([source.order for source in self.sources], given)
        self.start = np.cumsum([0, *map(len, self.sources)])

    def __len__(self) -> int:
        return int(self.start[-1])

    def image_id(self, sample: int) -> int:
        number, place = self._find(sample)
        return number * ID_SPACE + self.sources[number].image_id(place)

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        number, place = self._find(sample)
        return self.sources[number].draw(place, rng)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        number, place = self._find(sample)
        return self.sources[number].view(place, rng)

    def another(self, sample: int, rng: np.random.Generator) -> int:
        """Of the same source, so that proportions stay."""
        number, place = self._find(sample)
        return int(self.start[number]) + self.sources[number].another(place, rng)

    def origin(self, sample: int) -> str:
        return self.names[self._find(sample)[0]]

    def _find(self, sample: int) -> tuple[int, int]:
        number = int(np.searchsorted(self.start, sample, side="right")) - 1
        return number, sample - int(self.start[number])
