"""Frozen features on disk: written once (lit_blip2.data.features.writer), read by every run.

A section is a folder of the images that train, val or test reads, or train_NAME for a source of a mixture:

    features.json       what made them (encoder, weights, how images look to it), and how they are stored
    image_ids.npy       int64 [N], ascending; memory-mapped, as is
    signature.json      the signature of the encoder's weights; older ones lack it
    keys.npy            uint64 [N], what stands for the file that an image was
    00000.safetensors   features [n, views, tokens, width], int8 with scales float32 [n, views, tokens]; its metadata
                        name the images that could not be read

Legend: B rows asked for, S images of a shard, K views, N tokens, W width.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lit_blip2.data.annotations.entries import read_json
from lit_blip2.data.images import UnreadableImageError
from lit_blip2.pixels import UNNOTED

ABOUT, IDS, KEYS, SIGNATURE = "features.json", "image_ids.npy", "keys.npy", "signature.json"
MOST_OPEN = 1024  # mapped shards of a process; the system allows some 65,000
WAY_OUT = (
    "Read the images themselves (--data.features=null), or write features into another folder (`python -m lit_blip2 "
    "data features --config FILE --out DIR`, then --data.features=DIR; the mini-world's: delete them, data make-mini)"
)
CachedDtype = Literal["float16", "bfloat16", "int8"]


class Layout(NamedTuple):
    """How a section is stored. views: 0 is evaluation's only view, else so many augmented ones, drawn by `seed`.
    shard: images of each file but the last."""

    dtype: CachedDtype
    views: int
    seed: int
    images: int
    tokens: int
    width: int
    shard: int

    @property
    def stored_views(self) -> int:
        return max(self.views, 1)

    @property
    def bytes_per_image(self) -> int:
        token = self.width + 4 if self.dtype == "int8" else 2 * self.width
        return self.stored_views * self.tokens * token

    @property
    def read_as(self) -> torch.dtype:
        """What a reader gets."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float16

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)


class Shard(NamedTuple):
    """One file, mapped. unreadable: row -> (reason, the whole error)."""

    features_SKNW: Tensor
    scales_SKN: Tensor | None
    unreadable: dict[int, tuple[str, str]]

    def check_readable(self, rows: Iterable[int]) -> None:
        """Raises UnreadableImageError for an image that has no features, as it was when they were made."""
        for row in self.unreadable.keys() & set(rows) if self.unreadable else ():
            reason, told = self.unreadable[row]
            raise UnreadableImageError(told.removeprefix("cannot read image "), reason)

    def rows(self, row_B: np.ndarray, view_B: np.ndarray) -> Tensor:
        """float16 or bfloat16 [B, N, W]. Raises UnreadableImageError."""
        self.check_readable(row_B.tolist())
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
        told = self.folder / SIGNATURE
        self.signature: dict[str, Any] | None = read_json(told) if told.exists() else None  # of the encoder's weights
        files = [self.folder / shard_name(number) for number in range(self.layout.shards)]
        if missing := [file for file in files if not file.exists()]:
            raise FileNotFoundError(
                f"{self.folder} holds {len(files) - len(missing)} of {len(files)} shards of features: run the "
                "`python -m lit_blip2 data features` that began them again, it goes on"
            )
        self._ids_N, self._keys_N = (np.load(self.folder / name, mmap_mode="r") for name in (IDS, KEYS))
        self._shard = lru_cache(MOST_OPEN)(open_shard)

    def __reduce__(self):  # a pickled map would carry all features into each spawned worker
        return FeatureStore, (self.folder,)

    def __len__(self) -> int:
        return self.layout.images

    def rows(self, image_ids: Iterable[int], views: Iterable[int] | None = None) -> Tensor:
        """Features in the order asked: [B, tokens, width], bfloat16 if they are stored so, else float16.

        views: which of the stored views of each, by default the first. Raises KeyError that names a missing id, and
        UnreadableImageError for an image that could not be read when the features were made.
        """
        wanted_B = np.asarray(image_ids, dtype=np.int64)
        view_B = np.zeros_like(wanted_B) if views is None else np.asarray(views, dtype=np.int64)
        place_B, there_B = self._places(wanted_B)
        if not there_B.all():
            missing = np.unique(wanted_B[~there_B])
            raise KeyError(f"{self.folder} has no features of image {missing[0]} ({len(missing)} missing)")
        shard_B, row_B = np.divmod(place_B, self.layout.shard)
        features_BNW = torch.empty(len(wanted_B), self.layout.tokens, self.layout.width, dtype=self.layout.read_as)
        for shard in np.unique(shard_B).tolist():
            one_B = np.flatnonzero(shard_B == shard)
            features_BNW[one_B] = self._opened(shard).rows(row_B[one_B], view_B[one_B])
        return features_BNW

    def drawn(self, image_id: int, rng: np.random.Generator) -> "CachedView":
        """One of the views of an image, all equally likely. Draws from `rng` once. Raises as `rows`."""
        place_1, _ = self._places(np.array([image_id]))
        shard, row = divmod(int(place_1[0]), self.layout.shard)
        self._opened(shard).check_readable([row])
        return CachedView(self, image_id, int(rng.random() * self.layout.stored_views))

    def missing(self, image_ids: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of these images, int64 [M], those that are not in the store, and those that were other files when it was
        written: their `keys`, uint64 [M], differ."""
        place_M, there_M = self._places(image_ids)
        return image_ids[~there_M], image_ids[there_M & (self._keys_N[place_M] != keys)]

    def check(self, expected: Mapping) -> None:
        """ValueError lists every field in which `expected` and what made the features differ, with both values."""
        if differing := differences(self.made_by, expected):
            raise ValueError(
                f"the features in {self.folder} were made by something else. {differing}. {WAY_OUT}, or use the "
                "encoder that made them."
            )

    def _places(self, image_id_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where they stand (anywhere, if they do not), and whether they do."""
        place_B = np.searchsorted(self._ids_N, image_id_B).clip(max=len(self) - 1)
        return place_B, self._ids_N[place_B] == image_id_B

    def _opened(self, shard: int) -> Shard:
        return self._shard(self.folder / shard_name(shard))


class CachedView(NamedTuple):
    """One view of one image, yet to be read."""

    store: FeatureStore
    image_id: int
    view: int


def gathered(views: Sequence[CachedView]) -> Tensor:
    """The features of many views, of each store in one read: [B, tokens, width]. Stores are of one shape and dtype."""
    first = views[0].store.layout
    features_BNW = torch.empty(len(views), first.tokens, first.width, dtype=first.read_as)
    for store in {id(view.store): view.store for view in views}.values():
        places = [place for place, view in enumerate(views) if view.store is store]
        of_store = [views[place] for place in places]
        features_BNW[places] = store.rows([view.image_id for view in of_store], [view.view for view in of_store])
    return features_BNW


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
    """What made a section's features, and how they are stored. Raises FileNotFoundError."""
    if not (folder / ABOUT).is_file():
        raise FileNotFoundError(
            f"no cached features in {folder}: write them with `python -m lit_blip2 data features --config EXPERIMENT"
            f" --out {folder.parent}`, the mini-world's with `python -m lit_blip2 data make-mini`"
        )
    about = read_json(folder / ABOUT)
    return about["made_by"], Layout(**about["layout"])


def differences(stored: Mapping, expected: Mapping) -> str:
    """Every field in which the two differ, with both values; empty if none."""
    unnoted = {field: UNNOTED[field] for field in UNNOTED.keys() & (stored.keys() | expected.keys())}
    stored, expected = unnoted | dict(stored), json.loads(json.dumps(unnoted | dict(expected)))
    return "; ".join(
        f"{field}: stored {stored.get(field, 'absent')!r}, expected {expected.get(field, 'absent')!r}"
        for field in sorted(expected.keys() | stored.keys())
        if stored.get(field, "absent") != expected.get(field, "absent")
    )
