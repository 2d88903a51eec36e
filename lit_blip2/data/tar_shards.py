"""Tar shards as training data, as img2dataset and `data pack` write them."""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.data.batches.pairs import ShardPairs
from lit_blip2.data.module import PairData
from lit_blip2.data.shards.folders import is_url, shard_folder
from lit_blip2.data.shards.reader import INDEX, Shards


class TarShards(PairData):
    """Images and captions in tar files. Write their index first: `python -m lit_blip2 data index FOLDER`.

    Args:
        shards: folder of the *.tar files, under root; or a URL that fsspec reads, such as s3://bucket/cc3m,
            gs://bucket/laion or https://host/{00000..00331}.tar.
        index: folder of the index, under root; null: `index` in the folder of the shards. A URL needs one.
        cache: folder under root for downloaded shards, one for each machine. A URL needs one.
        cache_gb: largest size of the cache in GB, for each URL. The oldest shards are deleted first.
        best: number of captions of an image that training draws from, counted from the first; null: all.
        window: number of shards that are open at a time; their samples are mixed. null: all shards are mixed, in the
            order that the same samples would have as single files, which needs a disk with quick random access.
        group: number of consecutive images that always share a batch; 1: none. Needs window: null.
    """

    def __init__(
        self,
        root: str = "data",
        shards: str = "shards",
        index: str | None = None,
        cache: str | None = None,
        cache_gb: float = 100.0,
        best: int | None = None,
        window: int | None = 8,
        group: int = 1,
        **kwargs,
    ):
        super().__init__(root=root, **kwargs)
        if window is not None and group != 1:
            raise ValueError(f"group={group} needs window: null, for a window mixes its samples one by one")
        if is_url(shards) and (index is None or cache is None or window is None):
            raise ValueError(f"shards={shards} needs data.index, data.cache, and a data.window to be downloaded in")
        self.shards, self.cache_bytes = shards if is_url(shards) else self.root / shards, int(cache_gb * 1e9)
        self.index = self.root / index if index is not None else self.shards / INDEX
        self.cache = self.root / cache if cache is not None else None
        self.best, self.window, self.group = best, window, group

    def train_files(self) -> list[Path]:
        return [self.index / "shards.jsonl"]

    def train_pairs(self) -> ShardPairs:
        folder = shard_folder(self.shards, self.cache, self.cache_bytes)
        shards = Shards(folder, self.index, self.best, self.max_caption_words)
        if is_url(self.shards):
            self._check_cache(shards)
        if newer := shards.newer():
            rank_zero_info(
                f"{len(newer)} shards are newer than {self.index}, such as {newer[0]}: `data index` compares the two"
            )
        looks = self.image_size, self.augment, self.window, self.group, self.interpolation
        return ShardPairs(folder.name, shards, *looks)

    def _check_cache(self, shards: Shards) -> None:
        """Raises ValueError if two windows of shards do not fit into the cache: shards would be downloaded again."""
        largest = sorted(shard["bytes"] for shard in shards.shards)[-2 * self.window :]
        if sum(largest) > self.cache_bytes:
            raise ValueError(
                f"data.cache_gb={self.cache_bytes / 1e9:g} is too small for {self.shards}: two windows of {self.window}"
                f" shards have up to {sum(largest) / 1e9:.3g} GB"
            )
