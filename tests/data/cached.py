"""Cached features written by hand, in the documented layout: what reads them is tested without what writes them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


def write_store(folder: Path, ids, values_NKTW, made_by: dict, shard: int = 3, views: int = 0, unreadable=()) -> None:
    """float16 [N, views, tokens, width] in files of `shard` images, whose own files are ID.png of twelve digits.
    unreadable: ids of images without features."""
    order = np.argsort(ids)
    ids = np.array(ids, dtype=np.int64)[order]
    values = torch.as_tensor(np.asarray(values_NKTW)[order]).half()
    layout = dict(dtype="float16", views=views, seed=0, images=len(ids), tokens=values.shape[2], width=values.shape[3])
    folder.mkdir(parents=True)
    np.save(folder / "image_ids.npy", ids)
    np.save(folder / "keys.npy", keys_of(f"{image_id:012d}.png" for image_id in ids))
    (folder / "features.json").write_text(json.dumps({"made_by": made_by, "layout": layout | {"shard": shard}}))
    for number, first in enumerate(range(0, len(ids), shard)):
        here, rows = values[first : first + shard].contiguous(), range(len(ids[first : first + shard]))
        bad = {row: ["empty", f"{ids[first + row]} is empty"] for row in rows if ids[first + row] in unreadable}
        save_file({"features": here}, folder / f"{number:05d}.safetensors", metadata={"unreadable": json.dumps(bad)})


def keys_of(names) -> np.ndarray:
    """The first eight bytes of BLAKE2b with that length, of each file's name."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)
