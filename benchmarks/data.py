"""Images per second of one worker from tar shards of real-size JPEGs, beside plain webdataset and the bare decode loop.

    OMP_NUM_THREADS=1 python benchmarks/data.py

Makes its shards first (JPEGs of 500 x 375, in a folder that is removed), then times, in turn and several times over:

    ours        our loader, in its (seed, step) order, windows of eight shards
    webdataset  webdataset's own pipeline, shards in file order, the same decoding and transform
    bare        read, decode and transform in a plain loop: the limit

`start_late` is the time from opening the index to the first batch of step 100,000, `start` to that of step 0; `index`
the samples indexed per second of one core, the process's start included. Ends with one line of JSON: speedups over the
other two as the median of the turns' ratios, the least and the greatest.
"""

import argparse
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from benchmarks.measure import interleave, ratio
from lit_blip2.data.batches.loaders import train_loader
from lit_blip2.data.batches.pairs import ShardPairs
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.images import decode_image
from lit_blip2.data.shards.indexing import index_shards
from lit_blip2.data.shards.reader import Shards
from lit_blip2.data.transforms import train_view

SIZE, BATCH = 224, 32


def write_shards(folder: Path, shards: int, samples: int) -> None:
    """Smooth noise, so that a JPEG has about the size of a photograph's."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(64):
        coarse = Image.fromarray(rng.integers(0, 256, (38, 50, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
        fine = Image.fromarray(rng.integers(0, 256, (375, 500, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(1))
        stream = io.BytesIO()
        Image.blend(coarse, fine, 0.25).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(samples):
                number = shard * samples + i
                caption = json.dumps({"caption": f"image number {number}"}).encode()
                for ending, content in (("jpg", files[number % len(files)]), ("json", caption)):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def ours(folder: Path, count: int) -> int:
    """Images read."""
    pairs = TrainPairs(ShardPairs("bench", Shards(folder), SIZE, augment=True), seed=0)
    return sum(len(batch["image"]) for batch in train_loader(pairs, BATCH, 0, count // BATCH))


def plain_webdataset(folder: Path, count: int) -> int:
    rng = np.random.default_rng(0)

    def sample(entry: dict) -> tuple[torch.Tensor, str]:
        return train_view(decode_image(entry["jpg"], ""), SIZE, rng), json.loads(entry["json"])["caption"]

    files = sorted(str(file) for file in folder.glob("*.tar"))
    data = webdataset.WebDataset(files, shardshuffle=False).shuffle(1000, seed=0).map(sample)
    seen = 0
    for image, _ in torch.utils.data.DataLoader(data.batched(BATCH), batch_size=None):
        seen += len(image)
        if seen >= count // BATCH * BATCH:
            break
    return seen


def bare(folder: Path, count: int) -> int:
    shards, rng = Shards(folder), np.random.default_rng(0)
    for sample in range(count // BATCH * BATCH):
        train_view(decode_image(shards.image_bytes(sample), ""), SIZE, rng)
    return count // BATCH * BATCH


def first_batch(folder: Path, step: int) -> float:
    """Seconds from opening the index to the first batch."""
    began = time.perf_counter()
    pairs = TrainPairs(ShardPairs("bench", Shards(folder), SIZE, augment=True), seed=0)
    next(iter(train_loader(pairs, BATCH, step, step + 1)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--samples", type=int, default=500, help="of each shard")
    parser.add_argument("--images", type=int, default=1024, help="read in each turn")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, args.shards, args.samples)
        began = time.perf_counter()
        index_shards(folder, workers=1)
        index = args.shards * args.samples / (time.perf_counter() - began)
        readers = {"ours": ours, "webdataset": plain_webdataset, "bare": bare}
        seconds = interleave({name: partial(read, folder, args.images) for name, read in readers.items()}, args.turns)
        late, start = first_batch(folder, 100_000), first_batch(folder, 0)
        size = sum(file.stat().st_size for file in folder.glob("*.tar")) / args.shards / args.samples
    images = args.images // BATCH * BATCH
    figures = {
        f"speedup_{name}": [round(each, 3) for each in ratio(seconds[name], seconds["ours"])]
        for name in ("webdataset", "bare")
    }
    figures["images_per_second"] = {name: round(images / statistics.median(each), 1) for name, each in seconds.items()}
    figures |= {"start": round(start, 3), "start_late": round(late, 3), "index": round(index), "bytes": round(size)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
