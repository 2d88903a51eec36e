"""A test figure taken apart: the score of every item it is a mean of, and how sure that mean is.

The unit of a bootstrap is the image, as test sets are drawn: the questions and captions of an image stand or fall
together. Strata are what a mean over types is a mean of.

Legend: N items, G images, K strata, D draws.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = "items.npz"  # in a run's folder, from its newest test
DRAWS = 2000
AT_ONCE = 1 << 24  # of the D x G numbers that a bootstrap draws


class Items(NamedTuple):
    """What a figure is the mean of. values: float [N]; images: int64 [N], the image of each; ids: int64 [N], the item's
    own number, once each; strata: N names, where the figure is a mean over the means of types."""

    values: np.ndarray
    images: np.ndarray
    ids: np.ndarray
    strata: np.ndarray | None = None

    def mean(self) -> float:
        """The figure."""
        sums_GK, counts_GK = _by_image(self)
        return float((sums_GK.sum(0) / counts_GK.sum(0)).mean())


def interval(items: Items, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap over images of the figure: (low, high). Draws without an item of a stratum leave it out."""
    sums_GK, counts_GK = _by_image(items)
    images, rng, means = len(sums_GK), np.random.default_rng(seed), []
    for size in _chunks(draws, max(1, AT_ONCE // images)):
        weights_DG = rng.multinomial(images, np.full(images, 1 / images), size=size)
        counts_DK = weights_DG @ counts_GK
        with np.errstate(invalid="ignore"):
            means.append(np.nanmean(weights_DG @ sums_GK / np.where(counts_DK, counts_DK, np.nan), axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def difference(first: Items, second: Items) -> Items:
    """second - first, item by item. Raises ValueError that names an item which only one of them has."""
    if len(alone := np.setxor1d(first.ids, second.ids)):
        raise ValueError(f"{len(alone)} items are in one run only, the first with id {alone[0]}")
    one, two = np.argsort(first.ids), np.argsort(second.ids)
    if (first.images[one] != second.images[two]).any():
        raise ValueError("the same items belong to other images")
    return Items(
        second.values[two] - first.values[one],
        first.images[one],
        first.ids[one],
        None if first.strata is None else first.strata[one],
    )


def write_items(file: Path, items: Mapping[str, Items]) -> None:
    """Keep them, name by name, in a compressed .npz."""
    arrays = {f"{name}:{part}": value for name, each in items.items() for part, value in each._asdict().items()}
    np.savez_compressed(file, **{name: value for name, value in arrays.items() if value is not None})


def read_items(file: Path) -> dict[str, Items]:
    """What `write_items` kept."""
    with np.load(file) as arrays:
        parts = {name: arrays[name] for name in arrays.files}
    names = dict.fromkeys(name.rpartition(":")[0] for name in parts)
    return {name: Items(*(parts.get(f"{name}:{part}") for part in Items._fields)) for name in names}


def _by_image(items: Items) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the values of each image and stratum, [G, K] each."""
    if not len(items.values):
        raise ValueError("a figure of no items has no mean")
    groups, image_N = np.unique(items.images, return_inverse=True)
    strata = np.zeros(len(items.values), dtype=np.int64)
    if items.strata is not None:
        strata = np.unique(items.strata, return_inverse=True)[1]
    sums_GK = np.zeros((len(groups), strata.max() + 1))
    counts_GK = np.zeros_like(sums_GK)
    np.add.at(sums_GK, (image_N, strata), items.values)
    np.add.at(counts_GK, (image_N, strata), 1)
    return sums_GK, counts_GK


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
