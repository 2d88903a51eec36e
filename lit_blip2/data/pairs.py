"""Image-text pairs to train on, by number. A source says in which order it is read; it, or a part of it that a number
falls into, draws a caption and gives an image.
"""

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
    """Pairs that are numbered from 0. kind: what a view is called in a batch, "image" or "features"."""

    kind: str
    order: Order

    def __len__(self) -> int: ...

    def part(self, sample: int) -> "Part":
        """The one source that a sample is of."""


class Part:
    """N pairs of one source, with what is added to a place for its number, and to its image ids.

    view, file: raise UnreadableImageError or FileNotFoundError.
    """

    def __init__(self, pairs: "FilePairs | ShardPairs", start: int = 0, first_id: int = 0):
        self.pairs, self.start, self.first_id = pairs, start, first_id

    def image_id(self, sample: int) -> int:
        return self.first_id + self.pairs.image_id(sample - self.start)

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        """One of its captions; one draw from `rng`."""
        return self.pairs.draw(sample - self.start, rng)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        """float32 [3, size, size], or float16 [tokens, width]."""
        return self.pairs.view(sample - self.start, rng)

    def another(self, rng: np.random.Generator) -> int:
        """Any sample of the same source."""
        return self.start + int(rng.integers(len(self.pairs)))


class FilePairs:
    """Images in files, or kept features of them, with captions in memory; read in any order.

    group: this many consecutive images stay in one batch.
    """

    def __init__(self, name: str, captions: Captions, images: Pixels | Features, group: int = 1):
        self.name, self.texts, self.images = name, captions, images
        self.kind, self.order = images.name, Shuffle(len(captions), group)

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, sample: int) -> Part:
        return Part(self)

    def image_id(self, sample: int) -> int:
        return int(self.texts.image_ids[sample])

    def captions(self, sample: int) -> list[str]:
        return self.texts.of(sample)

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        return self.texts.draw(sample, rng)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        return self.images.view(self.texts.files[sample], self.image_id(sample), rng)

    def file(self, sample: int) -> bytes:
        return self.images.path(self.texts.files[sample]).read_bytes()

    def place(self, sample: int) -> str:
        """Where its image is."""
        return str(self.images.path(self.texts.files[sample]))


class ShardPairs:
    """Images and captions in tar shards; read in windows of shards. An image's id is its number.

    window: shards that are read at a time; None: all, like files. group: as in FilePairs.
    """

    kind = "image"

    def __init__(self, name: str, shards: Shards, size: int, augment: bool, window: int | None = 8, group: int = 1):
        self.name, self.shards, self.size, self.augment = name, shards, size, augment
        self.order = Shuffle(len(shards), group) if window is None else WindowShuffle(shards.sizes, window)

    def __len__(self) -> int:
        return len(self.shards)

    def part(self, sample: int) -> Part:
        return Part(self)

    def image_id(self, sample: int) -> int:
        return sample

    def captions(self, sample: int) -> list[str]:
        return self.shards.captions(sample)

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        return self.shards.draw(sample, rng)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        image = self.shards.image(sample)
        return train_transform(image, self.size, rng) if self.augment else eval_transform(image, self.size)

    def file(self, sample: int) -> bytes:
        return self.shards.image_bytes(sample)

    def place(self, sample: int) -> str:
        """Where its image is."""
        return self.shards.name(sample)


class MixedPairs:
    """Several sources, in exact proportions (mixing.Mix). Image ids of different sources never meet.

    Raises ValueError for sources of which some give images and some features, and wherever Mix does.
    """

    def __init__(self, sources: Mapping[str, FilePairs | ShardPairs], weights: Mapping[str, float] | None = None):
        kinds = {name: source.kind for name, source in sources.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError(f"sources of images and sources of features cannot be mixed: {kinds}")
        if weights is not None and weights.keys() != sources.keys():
            raise ValueError(f"weights are of {', '.join(weights)}; sources are {', '.join(sources)}")
        self.kind, given = next(iter(kinds.values())), None if weights is None else [weights[name] for name in sources]
        self.order = Mix([source.order for source in sources.values()], given)
        self.start = self.order.start
        for name, source in sources.items():
            source.name = name
        places = zip(sources.values(), self.start.tolist(), range(len(sources)))
        self.parts = [Part(source, start, number * ID_SPACE) for source, start, number in places]

    def __len__(self) -> int:
        return len(self.order)

    def part(self, sample: int) -> Part:
        return self.parts[int(np.searchsorted(self.start, sample, side="right")) - 1]
