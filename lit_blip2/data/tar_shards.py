"""Tar shards to train on, as img2dataset downloads them and `data pack` writes them."""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.data.batches.pairs import ShardPairs
from lit_blip2.data.module import PairData
from lit_blip2.data.shards.folders import is_url, shard_folder
from lit_blip2.data.shards.reader import INDEX, Shards


class TarShards(PairData):
    """Images with captions in tars, read by number through an index: `python -m lit_blip2 data index FOLDER`.

    Args:
        shards: the folder of *.tar, under root; or a URL that fsspec reads, such as s3://bucket/cc3m, gs://bucket/laion
            or https://host/{00000..00331}.tar.
        index: of those shards, a folder under root; null: in their folder. A URL needs one.
        cache: folder under root in which a URL's shards are kept while they are read, one for each machine.
        cache_gb: of which the cache has at most so many GB for each URL. The oldest shards make room for new ones.
        best: of an image's captions this many are drawn from, those that are listed first; null: all.
        window: shards that are read at a time, mixed with each other. null: all of them, in the order that the same
            samples would have as files; for a disk that is quick everywhere.
        group: this many consecutive images stay in one batch, where window is null.
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
        """Raises ValueError for a cache in which the shards of two windows have no room: each would come many times."""
        largest = sorted(shard["bytes"] for shard in shards.shards)[-2 * self.window :]
        if sum(largest) > self.cache_bytes:
            raise ValueError(
                f"data.cache_gb={self.cache_bytes / 1e9:g} is too small for {self.shards}: two windows of {self.window}"
                f" shards have up to {sum(largest) / 1e9:.3g} GB"
            )
