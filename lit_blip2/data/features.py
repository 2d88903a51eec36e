"""Frozen features on disk: written once, read by every run.

A folder holds features.npy (float16 [images, tokens, width], memory-mapped), image_ids.npy (int64 [images])
and fingerprint.json: what made the features (encoder, weights, transform), so that stale ones are not used.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch


class FeatureStore:
    """Random access by image id. Processes that open one folder share its pages.

    Raises FileNotFoundError if the folder is not a complete store.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.fingerprint: dict = json.loads((self.folder / "fingerprint.json").read_text(encoding="utf-8"))
        self.features_NTW = np.load(self.folder / "features.npy", mmap_mode="r")
        image_id_N = np.load(self.folder / "image_ids.npy")
        self._place_N = np.argsort(image_id_N)
        self._sorted_N = image_id_N[self._place_N]

    def __reduce__(self):  # a pickled memory map would carry all features into each spawned worker
        return FeatureStore, (self.folder,)

    def __len__(self) -> int:
        return len(self._sorted_N)

    def rows(self, image_ids: Iterable[int]) -> torch.Tensor:
        """Features in the order asked: float16 [B, tokens, width]. KeyError names a missing id."""
        wanted_B = np.asarray(image_ids, dtype=np.int64)
        place_B = np.searchsorted(self._sorted_N, wanted_B).clip(max=len(self) - 1)
        if (absent_B := self._sorted_N[place_B] != wanted_B).any():
            missing = np.unique(wanted_B[absent_B])
            raise KeyError(f"{self.folder} has no features of image {missing[0]} ({len(missing)} missing)")
        return torch.from_numpy(self.features_NTW[self._place_N[place_B]])

    def missing(self, image_ids: Iterable[int]) -> np.ndarray:
        """Those of `image_ids` that are not in the store, int64, each once."""
        return np.setdiff1d(np.asarray(image_ids, dtype=np.int64), self._sorted_N)

    def check(self, expected: dict) -> None:
        """ValueError lists every field in which `expected` and the fingerprint differ, with both values."""
        expected = json.loads(json.dumps(expected))
        fields = sorted(expected.keys() | self.fingerprint.keys())
        stored, wanted = ([d.get(field, "absent") for field in fields] for d in (self.fingerprint, expected))
        if differing := [
            f"{field}: stored {a!r}, expected {b!r}" for field, a, b in zip(fields, stored, wanted) if a != b
        ]:
            raise ValueError(
                f"the features in {self.folder} were made by something else. "
                + "; ".join(differing)
                + f". Delete {self.folder} and write them anew (the mini-world's: data make-mini), or use the encoder "
                "that made them."
            )


def write_features(
    out: str | Path, image_ids: Iterable[int], batches: Iterable[np.ndarray], total: int, fingerprint: dict
) -> None:
    """Write a store. batches: floats [b, tokens, width], in all `total` rows in the order of `image_ids`.

    Written to a temporary folder beside `out` and renamed at the end: a store is complete or absent.

    Raises FileExistsError if `out` exists; ValueError for ids that repeat, a number of rows that is not
    `total`, values that float16 cannot hold.
    """
    out, ids = Path(out), np.asarray(list(image_ids), dtype=np.int64)
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or write to another folder")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"image id {values[counts > 1][0]} is given {counts.max()} times")
    if len(ids) != total:
        raise ValueError(f"{len(ids)} image ids for {total} images")
    part = out.with_name(f"{out.name}.part{os.getpid()}")
    part.mkdir(parents=True)
    try:
        _fill(part / "features.npy", batches, ids)
        np.save(part / "image_ids.npy", ids)
        (part / "fingerprint.json").write_text(json.dumps(fingerprint, indent=1, sort_keys=True), encoding="utf-8")
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _fill(path: Path, batches: Iterable[np.ndarray], ids: np.ndarray) -> None:
    done, array = 0, None
    for batch_BTW in batches:
        if array is None:
            array = np.lib.format.open_memmap(path, "w+", np.float16, (len(ids), *batch_BTW.shape[1:]))
        end = done + len(batch_BTW)
        if end > len(ids):
            raise ValueError(f"at least {end} rows of features for {len(ids)} images")
        with np.errstate(over="ignore"):
            array[done:end] = batch_BTW
        if not (finite := np.isfinite(array[done:end]).all((1, 2))).all():
            raise ValueError(f"features of image {ids[done + int(finite.argmin())]} are not finite in float16")
        done = end
    if done != len(ids) or array is None:
        raise ValueError(f"{done} rows of features for {len(ids)} images")
    array.flush()
