"""Frozen features on disk: written once (lit_blip2.data.features.writer), read by every run.

A section is a folder with the features of train, val or test, or of train_NAME for a source of a mixture:

    features.json       what made them (encoder, weights, image preprocessing), how they are stored, and the CRC-32
                        of the other files except the shards
    image_ids.npy       int64 [N], ascending; memory-mapped
    keys.npy            uint64 [N], a number for the file of each image; memory-mapped
    signature.json      the signature of the encoder's weights; older sections lack it
    00000.safetensors   features [n, views, tokens, width], int8 with scales float32 [n, views, tokens]; crc32, int64
                        [n], of each image's features; marks, int64 [n, 3], which detect replaced files (marks.py); its
                        metadata name the unreadable images

Older sections have no CRC-32: only sizes and types are checked. Without marks, replaced files are not noticed.

Legend: B rows asked for, S images of a shard, K views, N tokens, W width.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from lit_blip2.contents import DataError, check_regular, parsed_json, read_object, read_text, reading, shown
from lit_blip2.data.features.marks import Mark, is_other
from lit_blip2.data.images import UnreadableImageError
from lit_blip2.links import check_links
from lit_blip2.pixels import UNNOTED

ABOUT, IDS, KEYS, SIGNATURE = "features.json", "image_ids.npy", "keys.npy", "signature.json"
MOST = 2**63  # limit of image, token and feature counts: of an int64
MOST_OPEN = 1024  # mapped shards of a process; the system allows some 65,000
WAY_OUT = (
    "Read the images themselves (--data.features=null), or write features into another folder (`python -m lit_blip2 "
    "data features --config FILE --out DIR`, then --data.features=DIR; the mini-world's: delete them, data make-mini)"
)
WRITE_AGAIN = "remove the folder, and write the features again"
CHECKED = (IDS, KEYS, SIGNATURE)  # files whose CRC-32 is in ABOUT
CachedDtype = Literal["float16", "bfloat16", "int8"]


class Layout(NamedTuple):
    """How a section is stored. views: number of augmented views of an image, drawn with `seed`; 0: one view without
    augmentation. shard: number of images in each file except the last."""

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
        """The dtype that a reader gets."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float16

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)


class Shard(NamedTuple):
    """One file, memory-mapped. unreadable: row -> (reason, the whole error). crc32_S: of each row, None in older files.
    known_S: bool, the rows that this process has checked."""

    file: Path
    features_SKNW: Tensor
    scales_SKN: Tensor | None
    unreadable: dict[int, tuple[str, str]]
    crc32_S: Tensor | None
    known_S: np.ndarray
    marks_S3: Tensor | None

    def check_readable(self, rows: Iterable[int]) -> None:
        """Raises UnreadableImageError for an image that was unreadable when the features were made."""
        for row in self.unreadable.keys() & set(rows) if self.unreadable else ():
            reason, told = self.unreadable[row]
            raise UnreadableImageError(told.removeprefix("cannot read image "), reason)

    def check_undamaged(self, row_B: np.ndarray) -> None:
        """Raises DataError for a row whose CRC-32 has changed. A process checks each row once."""
        if self.crc32_S is None:
            return
        for row in np.unique(row_B[~self.known_S[row_B]]).tolist():
            if crc32_of(self.features_SKNW, self.scales_SKN, row) != int(self.crc32_S[row]):
                raise DataError(f"{self.file}: row {row} is damaged, its CRC-32 is another: {WRITE_AGAIN}")
            self.known_S[row] = True

    def rows(self, row_B: np.ndarray, view_B: np.ndarray) -> Tensor:
        """float16 or bfloat16 [B, N, W]. Raises UnreadableImageError, and DataError for a damaged row."""
        self.check_readable(row_B.tolist())
        self.check_undamaged(row_B)
        place = torch.from_numpy(row_B), torch.from_numpy(view_B)
        if self.scales_SKN is None:
            return self.features_SKNW[place]
        return (self.features_SKNW[place] * self.scales_SKN[place].unsqueeze(-1)).half()


class FeatureStore:
    """Random access to a section by image id. Processes that open the same section share its memory pages.

    Raises FileNotFoundError if the section is missing or incomplete, and DataError for a damaged file or a link that
    leads out of the section.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.is_dir():
            check_links(self.folder)
        self.made_by, self.layout = read_about(self.folder)
        self.views = self.layout.views
        told = self.folder / SIGNATURE
        self.signature: dict[str, Any] | None = read_signature(told) if told.exists() else None
        self._ids_N, self._keys_N = read_ids(self.folder, self.layout)  # first: they confirm the number of images
        files = [self.folder / shard_name(number) for number in range(self.layout.shards)]
        if missing := [file for file in files if not file.exists()]:
            raise FileNotFoundError(
                f"{self.folder} holds {len(files) - len(missing)} of {len(files)} shards of features: run the "
                "`python -m lit_blip2 data features` that began them again, it goes on"
            )
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
        opened = {shard: self._opened(shard) for shard in np.unique(shard_B).tolist()}  # this checks their sizes
        features_BNW = torch.empty(len(wanted_B), self.layout.tokens, self.layout.width, dtype=self.layout.read_as)
        for shard, each in opened.items():
            one_B = np.flatnonzero(shard_B == shard)
            features_BNW[one_B] = each.rows(row_B[one_B], view_B[one_B])
        return features_BNW

    def drawn(self, image_id: int, rng: np.random.Generator) -> "CachedView":
        """One view of an image that is in the store, each equally likely. Draws from `rng` once. Raises
        UnreadableImageError as `rows`."""
        place_1, _ = self._places(np.array([image_id]))
        shard, row = divmod(int(place_1[0]), self.layout.shard)
        self._opened(shard).check_readable([row])
        return CachedView(self, image_id, int(rng.random() * self.layout.stored_views))

    def missing(self, image_ids: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image ids that the store lacks, and those of other files than when it was written: their keys differ.
        image_ids: int64 [M]; keys: uint64 [M]."""
        place_M, there_M = self._places(image_ids)
        return image_ids[~there_M], image_ids[there_M & (self._keys_N[place_M] != keys)]

    def check_files(self, image_ids: np.ndarray, path: Callable[[int], Path]) -> bool:
        """`check_files` for some images of this section. image_ids: int64 [M], all in the store. path: number of an
        image among these -> file."""
        place_M, _ = self._places(image_ids)
        number_of = {place: number for number, place in enumerate(place_M.tolist())}
        return check_files(self.folder, self.layout, number_of, lambda place: path(number_of[place]))

    def check(self, expected: Mapping) -> None:
        """Raises DataError unless `expected` made the features. It lists every differing field with both values."""
        if differing := differences(self.made_by, expected):
            raise DataError(
                f"the features in {self.folder} were made by something else. {differing}. {WAY_OUT}, or use the "
                "encoder that made them."
            )

    def _places(self, image_id_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The place of each image (any place, if it is missing), and whether it is there."""
        place_B = np.searchsorted(self._ids_N, image_id_B).clip(max=len(self) - 1)
        return place_B, self._ids_N[place_B] == image_id_B

    def _opened(self, shard: int) -> Shard:
        return self._shard(self.folder / shard_name(shard), self.layout)


class CachedView(NamedTuple):
    """One view of one image, yet to be read."""

    store: FeatureStore
    image_id: int
    view: int


def gathered(views: Sequence[CachedView]) -> Tensor:
    """The features of many views: [B, tokens, width], one read per store. Stores share shape and dtype."""
    first = views[0].store.layout
    features_BNW = torch.empty(len(views), first.tokens, first.width, dtype=first.read_as)
    for store in {id(view.store): view.store for view in views}.values():
        places = [place for place, view in enumerate(views) if view.store is store]
        of_store = [views[place] for place in places]
        features_BNW[places] = store.rows([view.image_id for view in of_store], [view.view for view in of_store])
    return features_BNW


def shard_name(number: int) -> str:
    return f"{number:05d}.safetensors"


def open_shard(file: Path, layout: Layout) -> Shard:
    """Map a shard: only the rows that are read get loaded. Raises DataError if it is damaged or of another layout."""
    with reading(file, "shard of features", WRITE_AGAIN), safe_open(file, "pt") as opened:
        held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        unreadable = {int(row): tuple(why) for row, why in json.loads(opened.metadata()["unreadable"]).items()}
        told = all(len(why) == 2 and all(isinstance(each, str) for each in why) for why in unreadable.values())
    count = min(layout.shard, layout.images - int(file.stem) * layout.shard)
    wanted = {"features": (getattr(torch, layout.dtype), (count, layout.stored_views, layout.tokens, layout.width))}
    wanted |= {"scales": (torch.float32, wanted["features"][1][:-1])} if layout.dtype == "int8" else {}
    wanted |= {"crc32": (torch.int64, (count,))} if "crc32" in held else {}
    wanted |= {"marks": (torch.int64, (count, 3))} if "marks" in held else {}
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in held.items()} != wanted or not told:
        raise DataError(f"{file} is of another layout than {file.with_name(ABOUT)}: {WRITE_AGAIN}")
    crc32_S, known_S = held.get("crc32"), np.zeros(count, dtype=bool)
    return Shard(file, held["features"], held.get("scales"), unreadable, crc32_S, known_S, held.get("marks"))


def crc32_of(features: Tensor, scales: Tensor | None, row: int) -> int:
    """The CRC-32 of a row's features and scales."""
    own = zlib.crc32(features[row].contiguous().view(torch.uint8).numpy())
    return own if scales is None else zlib.crc32(scales[row].contiguous().view(torch.uint8).numpy(), own)


def check_files(folder: Path, layout: Layout, places: Iterable[int], path: Callable[[int], Path]) -> bool:
    """Check that the image files of a section are unchanged. Returns whether any shard has the marks to tell.

    Args: places: images of the section. path: place -> file.
    Raises ValueError if files were replaced since. A file that is missing now counts as unchanged.
    """
    others, known = {}, False
    for number, here in groupby(sorted(places), lambda place: place // layout.shard):
        file = folder / shard_name(number)
        marks_S3 = open_shard(file, layout).marks_S3 if file.exists() else None
        if marks_S3 is None:
            continue
        known, marks = True, marks_S3.tolist()
        others |= {place: file.name for place in here if is_other(path(place), Mark(*marks[place % layout.shard]))}
    if others:
        shards = list(dict.fromkeys(others.values()))
        raise ValueError(
            f"{len(others):,} images were replaced since {folder} was made of them, among them {path(min(others))}: "
            f"remove its {', '.join(shards[:5])}{', ...' if len(shards) > 5 else ''} ({len(shards):,} of "
            f"{layout.shards:,} files) and run `python -m lit_blip2 data features` again, which makes those anew, or "
            "read the images themselves (--data.features=null)"
        )
    return known


def read_about(folder: Path) -> tuple[dict, Layout]:
    """What made a section's features, and how they are stored. Raises FileNotFoundError, or DataError."""
    file = folder / ABOUT
    if not file.is_file():
        raise FileNotFoundError(
            f"no cached features in {folder}: write them with `python -m lit_blip2 data features --config EXPERIMENT"
            f" --out {folder.parent}`, the mini-world's with `python -m lit_blip2 data make-mini`"
        )
    about = read_object(file)
    with reading(file, "description of features", WRITE_AGAIN):
        made_by, layout = about["made_by"], Layout(**about["layout"])
    numbers = layout[1:]
    whole = all(type(number) is int and 0 <= number < MOST for number in numbers) and min(numbers[2:]) > 0
    if not isinstance(made_by, dict) or layout.dtype not in get_args(CachedDtype) or not whole:
        raise DataError(f"{file} tells no layout of features: {WRITE_AGAIN}")
    for name in CHECKED:
        check_regular(folder / name)
    if not isinstance(told := about.get("crc32", {}), dict):
        raise DataError(f"{file}: crc32 is {shown(told)}, where an object is wanted: {WRITE_AGAIN}")
    for name, crc32 in told.items():
        if name in CHECKED and zlib.crc32((folder / name).read_bytes()) != crc32:
            raise DataError(f"{folder / name} is damaged, its CRC-32 is another than {file} tells: {WRITE_AGAIN}")
    return made_by, layout


def read_ids(folder: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Ids and keys of a section's images, mapped: int64 [N], uint64 [N]. Raises DataError for anything else."""
    found = []
    for name, dtype in ((IDS, np.int64), (KEYS, np.uint64)):
        with reading(folder / name, "array of NumPy's", WRITE_AGAIN):
            found.append(np.load(folder / name, mmap_mode="r"))
        if found[-1].dtype != dtype or found[-1].shape != (layout.images,):
            raise DataError(f"{folder / name} is not of {layout.images} images, as {ABOUT} has it: {WRITE_AGAIN}")
    if (np.diff(found[0]) <= 0).any():
        raise DataError(f"{folder / IDS}: ids do not ascend: {WRITE_AGAIN}")
    return found[0], found[1]


def read_signature(file: Path) -> dict[str, Any] | None:
    """The signature of the encoder's weights; None if it was not known. Raises DataError."""
    told = parsed_json(read_text(file), str(file))
    if not isinstance(told, dict | None):
        raise DataError(f"{file} holds no signature: {WRITE_AGAIN}")
    return told


def differences(stored: Mapping, expected: Mapping) -> str:
    """Every field in which the two differ, with both values; empty if none."""
    unnoted = {field: UNNOTED[field] for field in UNNOTED.keys() & (stored.keys() | expected.keys())}
    stored, expected = unnoted | dict(stored), json.loads(json.dumps(unnoted | dict(expected)))
    return "; ".join(
        f"{field}: stored {stored.get(field, 'absent')!r}, expected {expected.get(field, 'absent')!r}"
        for field in sorted(expected.keys() | stored.keys())
        if stored.get(field, "absent") != expected.get(field, "absent")
    )
