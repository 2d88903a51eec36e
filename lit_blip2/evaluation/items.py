"""Items, the per-example values behind a test metric, and bootstrap intervals computed from them.

The bootstrap draws images, not examples, because the questions and captions of one image are not independent. Strata
are the types of a metric that is a mean over types.

Legend: N examples, G images, K strata, S statistics, D draws.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_blip2.contents import DataError, reading
from lit_blip2.evaluation.formulas import FORMULAS, STATISTICS
from lit_blip2.whole_files import written_whole

MOST_BYTES = 1 << 30  # of an unpacked file
WAY_OUT = "test the run again"
FILE = "items.npz"  # in a run's folder, from its newest test
DRAWS = 2000
AT_ONCE = 1 << 24  # numbers, of the D x G of a bootstrap, that are drawn at once


class Items(NamedTuple):
    """The per-example values behind a metric.

    values: float [N], whose mean is the metric; or [N, S], statistics whose sums a formula turns into the metric.
    images: int64 [N], image id of each example. ids: int64 [N], id of each example, unique. strata: N type names, if
    the metric is a mean over types. figure: name of the formula in FORMULAS.
    """

    values: np.ndarray
    images: np.ndarray
    ids: np.ndarray
    strata: np.ndarray | None = None
    figure: str = "ratio"

    def value(self) -> float:
        """The metric's value."""
        return float(_metric(_by_image(self).sum(0), self.figure))


def interval(items: Items, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """(low, high) of the metric by percentile bootstrap over images. A draw without examples of a type leaves the type
    out."""
    return _percentiles(_drawn(items, draws, seed), level)


def paired_interval(
    first: Items, second: Items, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of second's metric minus first's, by paired bootstrap: both use the same images in a draw. Raises
    ValueError, with its id, for an example that only one of them has."""
    check_same(first, second)
    return _percentiles(_drawn(second, draws, seed) - _drawn(first, draws, seed), level)


def jackknife(items: Items) -> tuple[np.ndarray, np.ndarray]:
    """Image ids, int64 [G] ascending, and the jackknife pseudo-value of each image, float [G]: G times the metric minus
    G - 1 times the metric without this image. For a mean with one example per image, these are the values."""
    sums_GKS = _by_image(items)
    sums_KS, images = sums_GKS.sum(0), len(sums_GKS)
    values_G = images * _metric(sums_KS, items.figure) - (images - 1) * _metric(sums_KS - sums_GKS, items.figure)
    return np.unique(items.images), values_G


def check_same(first: Items, second: Items) -> None:
    """Raises ValueError if the two do not have the same examples (in any order) on the same images."""
    if len(alone := np.setxor1d(first.ids, second.ids)):
        raise ValueError(f"{len(alone)} items are in one run only, the first with id {alone[0]}")
    if (first.images[np.argsort(first.ids)] != second.images[np.argsort(second.ids)]).any():
        raise ValueError("the same items belong to other images")


def write_items(file: Path, items: Mapping[str, Items]) -> None:
    """Write the items of all metrics to a compressed .npz file."""
    arrays = {f"{name}:{part}": value for name, each in items.items() for part, value in each._asdict().items()}
    with written_whole(file) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **{name: value for name, value in arrays.items() if value is not None})


def read_items(file: Path) -> dict[str, Items]:
    """Read a file of `write_items`. Raises FileNotFoundError, or DataError for a damaged file."""
    with reading(file, "file of items", WAY_OUT):
        with zipfile.ZipFile(file) as packed:
            if (size := sum(part.file_size for part in packed.infolist())) > MOST_BYTES:
                raise DataError(f"{file} unpacks to {size:,} bytes, more than {MOST_BYTES:,}: {WAY_OUT}")
        with np.load(file) as arrays:
            parts = {name: arrays[name] for name in arrays.files}
        names = dict.fromkeys(name.rpartition(":")[0] for name in parts)
        found = {
            name: Items(**{part: parts[key] for part in Items._fields if (key := f"{name}:{part}") in parts})
            for name in names
        }
        found = {name: each._replace(figure=str(each.figure)) for name, each in found.items()}
    if wrong := [name for name, each in found.items() if not _is_whole(each)]:
        raise DataError(f"{file}: the parts of {wrong[0]} do not fit together: {WAY_OUT}")
    return found


def _is_whole(items: Items) -> bool:
    """Whether the parts have the types and shapes that they should have, with at least one value, all finite."""
    strata = items.ids if items.strata is None else items.strata
    rows, shape = (items.images, items.ids, strata), items.values.shape
    numbers = items.values.dtype.kind in "fiub" and all(row.dtype.kind in "iu" for row in rows[:2])
    told = (items.figure, shape[1:]) in [("ratio", ()), *((name, (count,)) for name, count in STATISTICS.items())]
    return (
        numbers
        and len(items.values) > 0
        and bool(np.isfinite(items.values).all())
        and told
        and strata.dtype.kind in "iuU"
        and all(row.shape == shape[:1] for row in rows)
    )


def _by_image(items: Items) -> np.ndarray:
    """Sums of the statistics of each image and stratum, [G, K, S]. A mean's statistics are the values and their
    number."""
    if not len(items.values):
        raise ValueError("a metric of no items has no value")
    values_NS = items.values if items.values.ndim > 1 else np.stack([items.values, np.ones(len(items.values))], 1)
    groups, image_N = np.unique(items.images, return_inverse=True)
    strata = np.zeros(len(values_NS), dtype=np.int64)
    if items.strata is not None:
        strata = np.unique(items.strata, return_inverse=True)[1]
    sums_GKS = np.zeros((len(groups), strata.max() + 1, values_NS.shape[1]))
    np.add.at(sums_GKS, (image_N, strata), values_NS)
    return sums_GKS


def _metric(sums_KS: np.ndarray, formula: str) -> np.ndarray:
    """The mean over non-empty strata, [...], of sums [..., K, S]."""
    there = sums_KS.any(-1)
    return (FORMULAS[formula](sums_KS) * there).sum(-1) / there.sum(-1).clip(1)


def _drawn(items: Items, draws: int, seed: int) -> np.ndarray:
    """The metric in each draw of images, float [D]. Items on the same images get the same draws."""
    sums_GKS = _by_image(items)
    images, rng, found = len(sums_GKS), np.random.default_rng(seed), []
    for size in _chunks(draws, max(1, AT_ONCE // images)):
        weights_DG = rng.multinomial(images, np.full(images, 1 / images), size=size)
        found.append(_metric(np.tensordot(weights_DG, sums_GKS, 1), items.figure))
    return np.concatenate(found)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
