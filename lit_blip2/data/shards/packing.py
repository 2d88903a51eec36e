"""`python -m lit_blip2 data pack --config FILE --out DIR`: writes an experiment's training data as tar shards.

An image's file goes in unchanged, its captions as a list in `.json`. A shard is written under another name and renamed
when it is complete: an interrupted run continues with the first missing shard.
"""

import io
import json
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.markup import escape
from rich.progress import track

from lit_blip2.contents import read_object
from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.batches.pairs import FilePairs, ShardPairs, sources_in
from lit_blip2.data.experiment import read_data
from lit_blip2.data.images import open_image
from lit_blip2.data.shards.indexing import IMAGES, index_shards
from lit_blip2.data.shards.reader import Shards
from lit_blip2.terminal import printable
from lit_blip2.whole_files import alone, write_json, written_whole


def pack(config: list[str], out: Path, samples: int = 1000, workers: int = 0) -> None:
    """Write the training data of an experiment as tar shards with an index.

    The data module lit_blip2.data.tar_shards.TarShards reads them. After an interruption the same command continues.
    Each source of a mixture gets a folder in OUT.

    Args:
        config: the experiment, a YAML file with `data`. May be given again: later files change settings. Settings
            behind it change them too, such as --data.root=DIR.
        out: folder to write.
        samples: number of samples in a shard.
        workers: number of processes that write; 0: one for each core.
    """
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1 in a shard")
    data = read_data(config)
    data.check_files("fit")
    sources = sources_in(data.train_pairs())
    if asked := [pairs.name for pairs in sources if isinstance(getattr(pairs, "texts", None), Questions)]:
        raise ValueError(f"{', '.join(asked)}: shards hold captions, questions stay in their files")
    for pairs in sources:
        folder = out / pairs.name if len(sources) > 1 else out
        with alone(folder):
            folder.mkdir(exist_ok=True)
            _check_same(folder, pairs, samples)
            starts = range(0, len(pairs), samples)
            with ProcessPoolExecutor(workers or os.cpu_count(), initializer=_remember, initargs=(pairs,)) as pool:
                written = pool.map(
                    _write_shard, *zip(*((folder / f"{i:05d}.tar", s, samples) for i, s in enumerate(starts)))
                )
                for _ in track(written, f"shards of {escape(printable(pairs.name))}", total=len(starts)):
                    pass
            index_shards(folder, workers=workers)
        if (found := len(Shards(folder))) != len(pairs):
            raise ValueError(f"{folder} holds {found:,} samples of {len(pairs):,}: see above what its index left out")


def _check_same(folder: Path, pairs: FilePairs | ShardPairs, samples: int) -> None:
    """Raises ValueError if the folder holds shards of something else."""
    file = folder / "packed.json"
    asked = {"source": pairs.name, "pairs": len(pairs), "samples": samples, "digest": pairs.digest()}
    if file.exists() and (known := read_object(file)) != asked:
        raise ValueError(f"{folder} holds shards of {known}, not of {asked}: give another --out, or remove it")
    write_json(file, asked, indent=None)


_pairs: FilePairs | ShardPairs | None = None  # of this worker process


def _remember(pairs: FilePairs | ShardPairs) -> None:
    global _pairs
    _pairs = pairs


def _write_shard(file: Path, start: int, samples: int) -> None:
    if file.exists():
        return
    with written_whole(file) as part, tarfile.open(part, "w") as tar:
        for sample in range(start, min(start + samples, len(_pairs))):
            content = _pairs.file(sample)
            captions = json.dumps({"caption": _pairs.captions(sample), "image_id": _pairs.image_id(sample)}).encode()
            for ending, data in ((ending_of(content), content), ("json", captions)):
                member = tarfile.TarInfo(f"{sample:09d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def ending_of(content: bytes) -> str:
    """The ending for an image's file, by its contents; jpg for formats that readers of tars do not know."""
    try:
        with open_image(content) as image:
            ending = image.format.lower()
    except Exception:  # no image, or one too large: it goes in as it is
        return "jpg"
    return ending if ending in IMAGES and ending != "jpeg" else "jpg"
