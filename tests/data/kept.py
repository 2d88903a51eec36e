"""Kept features written by hand, in the documented layout: what reads them is tested without what writes them."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


def write_store(folder: Path, ids, values_NKTW, made_by: dict, shard: int = 3, views: int = 0, unreadable=()) -> None:
    """float16 [N, views, tokens, width] in files of `shard` images. unreadable: places of images without features."""
    values = torch.as_tensor(np.asarray(values_NKTW)).half()
    layout = dict(dtype="float16", views=views, seed=0, images=len(ids), tokens=values.shape[2], width=values.shape[3])
    folder.mkdir(parents=True)
    np.save(folder / "image_ids.npy", np.array(ids, dtype=np.int64))
    (folder / "features.json").write_text(json.dumps({"made_by": made_by, "layout": layout | {"shard": shard}}))
    for number, first in enumerate(range(0, len(ids), shard)):
        here = values[first : first + shard].contiguous()
        here_too = [place for place in unreadable if first <= place < first + shard]
        bad = {place - first: ["empty", f"place {place} is empty"] for place in here_too}
        save_file({"features": here}, folder / f"{number:05d}.safetensors", metadata={"unreadable": json.dumps(bad)})
