"""Frozen features on disk: written once (keeping.py), read by every run.

A section is a folder of the images that train, val or test reads, or train_NAME for a source of a mixture:

    features.json       what made them (encoder, weights, image size), and how they are kept
    image_ids.npy       int64 [N], memory-mapped
    00000.safetensors   features [n, views, tokens, width], int8 with scales float32 [n, views, tokens]; its metadata
                        name the images that could not be read

Legend: B rows asked for, S images of a shard, K views, N tokens, W width.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lit_blip2.data.images import UnreadableImageError

ABOUT = "features.json"
MOST_OPEN = 1024  # mapped shards of a process; the system allows some 65,000
Kept = Literal["float16", "bfloat16", "int8"]


class Layout(NamedTuple):
    """How a section is kept. views: 0 is evaluation's only view, else so many augmented ones, drawn by `seed`.
    shard: images of each file but the last."""

    dtype: Kept
    views: int
    seed: int
    images: int
    tokens: int
    width: int
    shard: int

    @property
    def kept_views(self) -> int:
        return max(self.views, 1)

    @property
    def bytes_per_image(self) -> int:
        token = self.width + 4 if self.dtype == "int8" else 2 * self.width
        return self.kept_views * self.tokens * token

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)


class Shard(NamedTuple):
    """One file, mapped. unreadable: row -> (reason, the whole error)."""

    features_SKNW: Tensor
    scales_SKN: Tensor | None
    unreadable: dict[int, tuple[str, str]]

    def rows(self, row_B: np.ndarray, view_B: np.ndarray) -> Tensor:
        """float16 or bfloat16 [B, N, W]. Raises UnreadableImageError for an image that has none."""
        for row in self.unreadable.keys() & set(row_B.tolist()) if self.unreadable else ():
            raise UnreadableImageError(self.unreadable[row][1], self.unreadable[row][0])
        place = torch.from_numpy(row_B), torch.from_numpy(view_B)
        if self.scales_SKN is None:
            return self.features_SKNW[place]
        return (self.features_SKNW[place] * self.scales_SKN[place].unsqueeze(-1)).half()


class FeatureStore:
    """Random access by image id to a section. Processes that open one share its pages.

    Raises FileNotFoundError if the section is not there, or not complete.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.made_by, self.layout = read_about(self.folder)
        self.views = self.layout.views
        files = [self.folder / shard_name(number) for number in range(self.layout.shards)]
        if missing := [file for file in files if not file.exists()]:
            raise FileNotFoundError(
                f"{self.folder} holds {len(files) - len(missing)} of {len(files)} shards of features: run the "
                "`python -m lit_blip2 data features` that began them again, it goes on"
            )
        image_id_N = np.load(self.folder / "image_ids.npy", mmap_mode="r")
        self._place_N = np.argsort(image_id_N, kind="stable")
        self._sorted_N = image_id_N[self._place_N]
        self._shard = lru_cache(MOST_OPEN)(open_shard)

    def __reduce__(self):  # a pickled map would carry all features into each spawned worker
        return FeatureStore, (self.folder,)

    def __len__(self) -> int:
        return self.layout.images

    def rows(self, image_ids: Iterable[int], views: Iterable[int] | None = None) -> Tensor:
        """Features in the order asked: [B, tokens, width], bfloat16 if they are kept so, else float16.

        views: which of the kept views of each, by default the first. Raises KeyError that names a missing id, and
        UnreadableImageError for an image that could not be read when the features were made.
        """
        wanted_B = np.asarray(image_ids, dtype=np.int64)
        view_B = np.zeros_like(wanted_B) if views is None else np.asarray(views, dtype=np.int64)
        sorted_B = np.searchsorted(self._sorted_N, wanted_B).clip(max=len(self) - 1)
        if (absent_B := self._sorted_N[sorted_B] != wanted_B).any():
            missing = np.unique(wanted_B[absent_B])
            raise KeyError(f"{self.folder} has no features of image {missing[0]} ({len(missing)} missing)")
        shard_B, row_B = np.divmod(self._place_N[sorted_B], self.layout.shard)
        dtype = torch.bfloat16 if self.layout.dtype == "bfloat16" else torch.float16
        features_BNW = torch.empty(len(wanted_B), self.layout.tokens, self.layout.width, dtype=dtype)
        for shard in np.unique(shard_B).tolist():
            one_B = np.flatnonzero(shard_B == shard)
            opened = self._shard(self.folder / shard_name(shard))
            features_BNW[one_B] = opened.rows(row_B[one_B], view_B[one_B])
        return features_BNW

    def drawn(self, image_id: int, rng: np.random.Generator) -> Tensor:
        """One of the views of an image, all equally likely: [tokens, width]. Draws from `rng` once."""
        return self.rows([image_id], [int(rng.random() * self.layout.kept_views)])[0]

    def missing(self, image_ids: Iterable[int]) -> np.ndarray:
        """Those of `image_ids` that are not in the store, int64, each once."""
        return np.setdiff1d(np.asarray(image_ids, dtype=np.int64), self._sorted_N)

    def check(self, expected: Mapping) -> None:
        """ValueError lists every field in which `expected` and what made the features differ, with both values."""
        if differing := differences(self.made_by, expected):
            raise ValueError(
                f"the features in {self.folder} were made by something else. {differing}. Delete {self.folder} and "
                "write them anew (`python -m lit_blip2 data features`; the mini-world's: data make-mini), or use the "
                "encoder that made them."
            )


def shard_name(number: int) -> str:
    return f"{number:05d}.safetensors"


def open_shard(file: Path) -> Shard:
    """Map a shard; only what is read is loaded."""
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
        scales = opened.get_tensor("scales") if "scales" in names else None
        unreadable = json.loads(opened.metadata()["unreadable"])
        return Shard(opened.get_tensor("features"), scales, {int(row): tuple(why) for row, why in unreadable.items()})


def read_about(folder: Path) -> tuple[dict, Layout]:
    """What made a section's features, and how they are kept. Raises FileNotFoundError."""
    if not (folder / ABOUT).is_file():
        raise FileNotFoundError(
            f"no kept features in {folder}: write them with `python -m lit_blip2 data features --config EXPERIMENT"
            f" --out {folder.parent}`, the mini-world's with `python -m lit_blip2 data make-mini`"
        )
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return about["made_by"], Layout(**about["layout"])


def differences(stored: Mapping, expected: Mapping) -> str:
    """Every field in which the two differ, with both values; empty if none."""
    expected = json.loads(json.dumps(expected))
    return "; ".join(
        f"{field}: stored {stored.get(field, 'absent')!r}, expected {expected.get(field, 'absent')!r}"
        for field in sorted(expected.keys() | stored.keys())
        if stored.get(field, "absent") != expected.get(field, "absent")
    )
