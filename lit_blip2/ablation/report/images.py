"""How much a contrast of settings would change with other test images, from the results of every run per image.

Seeds and images are both random, like readers and cases in studies with many readers: seeds belong to a setting, images
are the same in all. As there (Dorfman, Berbaum and Metz, Investigative Radiology 27, 1992), a run's metric is split
into jackknife pseudo-values p of its images, whatever the metric is: p = G m - (G - 1) m', where m is the metric of all
G images and m' that of all but one. Let d be the contrast of the settings' pseudo-values, each averaged over the
setting's runs, c its weights and R the settings' numbers of runs. Then the variance by images is

    max(0, V - E)        V = variance of d over images / G        E = sum of c² MS / (R G)

MS is the mean square of run by image within a setting: the noise of a run on single images. The variance over seeds
already holds this noise, divided by the same numbers, so E is subtracted from V. The result is never below 0 (Hillis,
Statistics in Medicine 26, 2007). It estimates how much the contrast of these means would change with the images.

Legend: R runs of a setting, G images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_blip2.evaluation.items import jackknife, read_items

SAME = 1e-3  # metrics.json holds single precision
OTHER_IMAGES = "tested on other images"


@dataclass(frozen=True)
class PerImage:
    """A metric's pseudo-values in the runs of one setting, R >= 2, G >= 2. ids: int [G], ascending; values: [R, G]."""

    ids: np.ndarray
    values: np.ndarray

    @property
    def noise(self) -> float:
        """MS: the mean square of run by image."""
        runs, images = self.values.shape
        rest_RG = self.values - self.values.mean(1, keepdims=True) - self.values.mean(0) + self.values.mean()
        return float((rest_RG**2).sum() / ((runs - 1) * (images - 1)))


@dataclass(frozen=True)
class OneRun:
    """A metric's pseudo-values in one run. ids: int [G], ascending; values: [G]."""

    ids: np.ndarray
    values: np.ndarray


def read_images(file: Path, recorded: Mapping[str, float | None]) -> dict[str, OneRun]:
    """Pseudo-values of those metrics in a run's items.npz that have the recorded value, because a later test may have
    written other results. Empty if there is no such file. Raises DataError for a damaged file."""
    if not file.exists():
        return {}
    items = {name: each for name, each in read_items(file).items() if recorded.get(name) is not None}
    kept = {name: each for name, each in items.items() if math.isclose(each.value(), recorded[name], rel_tol=SAME)}
    return {name: OneRun(*jackknife(each)) for name, each in kept.items()}


def together(runs: Sequence[OneRun]) -> PerImage | None:
    """The runs of a setting; None for fewer than two runs, for a single image, and if their images differ."""
    if len(runs) < 2 or len(runs[0].ids) < 2 or not same_images(runs):
        return None
    return PerImage(runs[0].ids, np.stack([each.values for each in runs]))


def same_images(tested: Sequence[PerImage | OneRun]) -> bool:
    """Whether all were tested on the same images."""
    return all(np.array_equal(tested[0].ids, each.ids) for each in tested)


def image_variance(settings: Sequence[PerImage], weights: Sequence[float]) -> float:
    """The contrast's variance by images, beyond what its variance over seeds already holds."""
    mean_G = sum(weight * each.values.mean(0) for weight, each in zip(weights, settings, strict=True))
    noise = sum(weight**2 * each.noise / len(each.values) for weight, each in zip(weights, settings))
    return max(0.0, float(mean_G.var(ddof=1) - noise) / len(mean_G))
