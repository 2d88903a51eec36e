"""Image-text pairs to train on, by sample number.

A PairSource maps a sample's number to an image and a text: a caption, or a question with its answer. It also has the
order in which it is read. A mixture passes the number on to the source that holds the sample.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from lit_blip2.data.annotations.captions import Captions
from lit_blip2.data.annotations.ids import ID_SPACE
from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.annotations.strings import digest_of
from lit_blip2.data.batches.evaluation import Pixels, name_keys
from lit_blip2.data.batches.mixing import Mix, WindowShuffle
from lit_blip2.data.batches.order import Order, Shuffle
from lit_blip2.data.features.store import CachedView, FeatureStore
from lit_blip2.data.images import read_file
from lit_blip2.data.shards.reader import Shards
from lit_blip2.data.transforms import train_view


class PairSource(Protocol):
    """Pairs that are numbered from 0. kind: the key of views in a batch, "image" or "features"."""

    kind: str
    order: Order

    def __len__(self) -> int: ...

    def span(self, sample: int) -> "Span":
        """The source that holds a sample."""


class Span:
    """The pairs of one source. start, first_id: offsets of its sample numbers and image ids in a mixture.

    `view` raises UnreadableImageError or FileNotFoundError.
    """

    def __init__(self, pairs: "FilePairs | ShardPairs | CachedPairs", start: int = 0, first_id: int = 0):
        self.pairs, self.start, self.first_id = pairs, start, first_id

    def image_id(self, sample: int) -> int:
        return self.first_id + self.pairs.image_id(sample - self.start)

    def draw(self, sample: int, rng: np.random.Generator) -> dict[str, str]:
        """A caption, or the question and an answer, by name. Draws from `rng` once."""
        return self.pairs.draw(sample - self.start, rng)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor | CachedView:
        """Pixels uint8 [3, size, size], or the place of cached features."""
        return self.pairs.view(sample - self.start, rng)

    def another(self, sample: int, rng: np.random.Generator) -> int:
        """A random sample of the same source; in shards, of the same shard, which is already in use."""
        near = self.pairs.near(sample - self.start)
        return self.start + near[int(rng.integers(len(near)))]


class FilePairs:
    """Images in files, with captions or questions in memory; read in any order.

    group: this many consecutive images stay in one batch.
    """

    kind = "image"

    def __init__(self, name: str, texts: Captions | Questions, images: Pixels, augment: bool, group: int = 1):
        self.name, self.texts, self.images, self.augment = name, texts, images, augment
        self.order = Shuffle(len(texts), group)

    def __len__(self) -> int:
        return len(self.texts)

    def span(self, sample: int) -> Span:
        return Span(self)

    def image_id(self, sample: int) -> int:
        return int(self.texts.image_ids[sample])

    def captions(self, sample: int) -> list[str]:
        return self.texts.of(sample)

    def draw(self, sample: int, rng: np.random.Generator) -> dict[str, str]:
        return self.texts.draw(sample, rng)

    @property
    def image_ids(self) -> np.ndarray:
        return self.texts.image_ids

    def keys(self) -> np.ndarray:
        """A hash of the name of each image's file: uint64 [N]."""
        return self.images.keys(self.texts.files)

    def digest(self) -> str:
        """A hash of all images' names and texts. It opens no image."""
        return self.texts.digest()

    def image(self, sample: int) -> Image.Image:
        return self.images.read(self.texts.files[sample])

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        looks = self.images.size, rng if self.augment else None, self.images.interpolation
        return train_view(self.image(sample), *looks)

    def near(self, sample: int) -> range:
        """The samples that may replace a sample."""
        return range(len(self))

    def file(self, sample: int) -> bytes:
        return read_file(self.path(sample))

    def path(self, sample: int) -> Path:
        return self.images.path(self.texts.files[sample])

    def place(self, sample: int) -> str:
        """The path of an image."""
        return str(self.path(sample))


class ShardPairs:
    """Images and captions in tar shards, read in windows of shards. An image's id is its sample number.

    window: number of shards that are read at a time; None: all, as with files. group: as in FilePairs.
    """

    kind = "image"

    def __init__(
        self,
        name: str,
        shards: Shards,
        size: int,
        augment: bool,
        window: int | None = 8,
        group: int = 1,
        interpolation: str = "bicubic",
    ):
        self.name, self.shards, self.augment = name, shards, augment
        self.size, self.interpolation = size, interpolation
        self.order = Shuffle(len(shards), group) if window is None else WindowShuffle(shards.sizes, window)

    def __len__(self) -> int:
        return len(self.shards)

    def span(self, sample: int) -> Span:
        return Span(self)

    def image_id(self, sample: int) -> int:
        return sample

    def captions(self, sample: int) -> list[str]:
        return self.shards.captions(sample)

    def draw(self, sample: int, rng: np.random.Generator) -> dict[str, str]:
        return {"caption": self.shards.draw(sample, rng)}

    @property
    def image_ids(self) -> np.ndarray:
        return np.arange(len(self))

    def keys(self) -> np.ndarray:
        """A number for each image, from its shard's name, its place and its size: uint64 [N]."""
        shards = self.shards
        names_S = name_keys(shards.names)
        begin_N, size_N = np.asarray(shards.images_N2).T.astype(np.uint64)
        return np.repeat(names_S, shards.sizes) ^ (begin_N << np.uint64(24)) ^ size_N

    def digest(self) -> str:
        """A hash of all images' places and captions. It reads no image."""
        shards = self.shards
        return digest_of(shards.images_N2, shards.first_N, shards.texts.buffer, name_keys(shards.names))

    def image(self, sample: int) -> Image.Image:
        return self.shards.image(sample)

    def view(self, sample: int, rng: np.random.Generator) -> torch.Tensor:
        return train_view(self.image(sample), self.size, rng if self.augment else None, self.interpolation)

    def near(self, sample: int) -> range:
        """The samples that may replace a sample."""
        return self.shards.shard_of(sample)

    def file(self, sample: int) -> bytes:
        return self.shards.image_bytes(sample)

    def place(self, sample: int) -> str:
        """The name of an image, with its shard."""
        return self.shards.name(sample)


class CachedPairs:
    """Pairs of another source, with cached features instead of images."""

    kind = "features"

    def __init__(self, pairs: FilePairs | ShardPairs, store: FeatureStore):
        self.pairs, self.store = pairs, store
        self.name, self.order = pairs.name, pairs.order
        self.image_id, self.draw = pairs.image_id, pairs.draw

    def __len__(self) -> int:
        return len(self.pairs)

    def span(self, sample: int) -> Span:
        return Span(self)

    def near(self, sample: int) -> range:
        return self.pairs.near(sample)

    def view(self, sample: int, rng: np.random.Generator) -> CachedView:
        return self.store.drawn(self.image_id(sample), rng)


class MixedPairs:
    """Several sources in exact proportions (mixing.Mix). Image ids of different sources never collide.

    Raises ValueError wherever Mix does.
    """

    def __init__(self, sources: Mapping[str, FilePairs | ShardPairs], weights: Mapping[str, float] | None = None):
        if weights is not None and weights.keys() != sources.keys():
            raise ValueError(f"weights are of {', '.join(weights)}; sources are {', '.join(sources)}")
        given = None if weights is None else [weights[name] for name in sources]
        self.order = Mix([source.order for source in sources.values()], given)
        self.start = self.order.start
        for name, source in sources.items():
            source.name = name
        places = zip(sources.values(), self.start.tolist(), range(len(sources)))
        self.spans = [Span(source, start, number * ID_SPACE) for source, start, number in places]

    @property
    def kind(self) -> str:
        return self.spans[0].pairs.kind

    def __len__(self) -> int:
        return len(self.order)

    def span(self, sample: int) -> Span:
        return self.spans[int(np.searchsorted(self.start, sample, side="right")) - 1]


def sources_in(source: PairSource) -> list[FilePairs | ShardPairs]:
    """The source itself, or all sources of a mixture."""
    return [part.pairs for part in source.spans] if isinstance(source, MixedPairs) else [source]


def with_features(source: PairSource, stores: Sequence[FeatureStore]) -> PairSource:
    """The same source with cached features. stores: one for each source of a mixture."""
    kept = [CachedPairs(pairs, store) for pairs, store in zip(sources_in(source), stores, strict=True)]
    if not isinstance(source, MixedPairs):
        return kept[0]
    for part, pairs in zip(source.spans, kept):
        part.pairs = pairs
    return source
