"""Evaluation batches: map-style data sets that return a whole batch for a list of keys.

DataLoader hands `__getitems__` all keys of a batch at once, so features are gathered in one read and nothing
is collated. The images come from a source: `Pixels` (decoded and transformed) or `Features` (read from a
FeatureStore).
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from lit_blip2.data.annotations.binding import Pairs
from lit_blip2.data.annotations.captions import Captions
from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.annotations.strings import Strings
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.data.images import load_image
from lit_blip2.data.transforms import eval_view

Batch = dict[str, torch.Tensor | int | str | list]


class Pixels:
    """Images from files under `folder`: {"image": uint8 [B, 3, size, size]}. flat: see `is_flat`."""

    name = "image"

    def __init__(self, folder: Path, size: int, interpolation: str = "bicubic", flat: bool = False):
        self.folder, self.size, self.interpolation, self.flat = folder, size, interpolation, flat

    def path(self, file: str) -> Path:
        """folder/file or, if there is none, the same image without its folders: see `own_name` and `is_flat`."""
        path = self.folder / file
        if path.exists():
            return path
        others = [own_name(file, self.folder), *([file.rpartition("/")[2]] if self.flat else [])]
        return next((there for name in others if (there := self.folder / name).exists()), path)

    def keys(self, files: Iterable[str]) -> np.ndarray:
        """A hash of each file's name, the same for all ways to name the file: uint64 [N]."""
        return name_keys(own_name(file, self.folder) for file in files)

    def read(self, file: str) -> Image.Image:
        return load_image(self.path(file))

    def load(self, files: list[str], image_ids: np.ndarray) -> torch.Tensor:
        """Images to evaluate on. A file named several times is decoded once."""
        once = {file: self._load(file, number) for file, number in dict(zip(files, image_ids.tolist())).items()}
        return torch.stack([once[file] for file in files])

    def _load(self, file: str, image_id: int) -> torch.Tensor:
        try:
            return eval_view(self.read(file), self.size, self.interpolation)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"image {image_id}, to evaluate on, is missing: {self.path(file)}") from error


def own_name(file: str, folder: Path) -> str:
    """A file's name in `folder`, without redundant folders. These are the last parts of `folder` itself
    (train2014/x.jpg in coco/train2014) and COCO's folders, which the file name repeats
    (train2014/COCO_train2014_1.jpg). Any other folder is part of the name: 1.jpg is not b/1.jpg."""
    parts = tuple(file.split("/"))
    if len(parts) > 1 and parts[-1].startswith(f"COCO_{parts[-2]}_"):
        return parts[-1]
    ends = folder.parts
    for count in range(len(parts) - 1, 0, -1):
        if parts[:count] == ends[-count:]:
            return "/".join(parts[count:])
    return file


def is_flat(folder: Path, files: Sequence[Strings]) -> bool:
    """Whether files that are named with folders may lie in `folder` itself: none of their folders exists, and no two
    names are equal without their folders.

    Args: files: all names of files in `folder`, such as VG_100K/1.jpg and VG_100K_2/2.jpg.
    """
    if not any((each.buffer == ord("/")).any() for each in files):
        return False
    names, folders = set(), set()
    for name in (own_name(file, folder) for each in files for file in each):
        names.add(name)
        first, slash, _ = name.partition("/")
        if slash and first not in folders and (folder / first).exists():
            return False
        folders.update([first] if slash else [])
    return bool(folders) and len({name.rpartition("/")[2] for name in names}) == len(names)


def name_keys(names: Iterable[str]) -> np.ndarray:
    """A hash of each name: uint64 [N]."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


class Features:
    """Cached features of the images: {"features": float16 or bfloat16 [B, tokens, width]}."""

    name = "features"

    def __init__(self, store: FeatureStore):
        self.store = store

    def load(self, files: list[str], image_ids: np.ndarray) -> torch.Tensor:
        return self.store.rows(image_ids)


class CaptionRows(Dataset):
    """Images, each with all its captions: for retrieval, caption metrics and the validation loss."""

    def __init__(self, captions: Captions, source: Pixels | Features, rows: np.ndarray):
        self.captions, self.source, self.rows = captions, source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> Batch:
        table, rows = self.captions, self.rows[places]
        image_ids = table.image_ids[rows]
        files = [table.files[i] for i in rows]
        batch = {
            self.source.name: self.source.load(files, image_ids),
            "file": files,
            "captions": [table.of(i) for i in rows],
            "image_id": torch.from_numpy(image_ids),
            "row": torch.from_numpy(rows),
            "task": "caption",
        }
        if table.written_ids is not None:
            batch["written_id"] = [table.written_id(i) for i in rows]
        if table.written is not None:
            batch["written"] = [table.written_of(i) for i in rows]
        if table.domains is not None:
            batch["domain"] = [table.domains[i] for i in rows]
        return batch


class QuestionRows(Dataset):
    """Questions about images, with the answers that people gave."""

    def __init__(self, questions: Questions, source: Pixels | Features, rows: np.ndarray):
        self.questions, self.source, self.rows = questions, source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> Batch:
        table, rows = self.questions, self.rows[places]
        image_ids = table.image_ids[rows]
        more = {} if table.written_ids is None else {"written_id": [table.written_id(i) for i in rows]}
        more |= {} if table.server == "vqa" else {"server": [table.server] * len(rows)}
        files = [table.files[i] for i in rows]
        return more | {
            self.source.name: self.source.load(files, image_ids),
            "file": files,
            "question": [table.texts[i] for i in rows],
            "question_id": table.question_ids[rows].tolist(),
            "question_type": [table.types[i] for i in rows],
            "answers": [table.answers_of(i) for i in rows],
            "image_id": torch.from_numpy(image_ids),
            "row": torch.from_numpy(rows),
            "task": "vqa",
        }


class BindingRows(Dataset):
    """Captions, each with the image it is true of and the one with swapped attributes."""

    def __init__(self, pairs: Pairs, source: Pixels | Features, rows: np.ndarray):
        self.pairs, self.source, self.rows = pairs, source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> Batch:
        table, rows, name = self.pairs, self.rows[places], self.source.name
        first, second = table.image_ids[rows], table.swapped_image_ids[rows]
        return {
            name: self.source.load([table.files[i] for i in rows], first),
            f"swapped_{name}": self.source.load([table.swapped_files[i] for i in rows], second),
            "caption": [table.captions[i] for i in rows],
            "image_id": torch.from_numpy(first),
            "swapped_image_id": torch.from_numpy(second),
            "row": torch.from_numpy(rows),
            "task": "binding",
        }


class NoRows(Dataset):
    """Replaces a table of which a rank has no row, by one batch without a task. Without any batch the rank would skip
    the collective operations at the end of an evaluation, and the other ranks would wait for it."""

    def __len__(self) -> int:
        return 1

    def __getitems__(self, places: list[int]) -> Batch:
        return {"task": "none"}
