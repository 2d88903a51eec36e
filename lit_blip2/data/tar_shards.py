"""Tar shards to train on, as img2dataset downloads them and `data pack` writes them."""

from pathlib import Path

from lit_blip2.data.module import PairData
from lit_blip2.data.pairs import ShardPairs
from lit_blip2.data.shards import INDEX, Shards


class TarShards(PairData):
    """Images with captions in tars, read by number through an index: `python -m lit_blip2 data index FOLDER`.

    Args:
        shards: the folder of *.tar, under root.
        best: of an image's captions this many are drawn from, those that are listed first; null: all.
        window: shards that are read at a time, mixed with each other. null: all of them, in the order that the same
            samples would have as files; for a disk that is quick everywhere.
        group: this many consecutive images stay in one batch, where window is null.
    """

    def __init__(
        self,
        root: str = "data",
        shards: str = "shards",
        best: int | None = None,
        window: int | None = 8,
        group: int = 1,
        **kwargs,
    ):
        super().__init__(root=root, **kwargs)
        if window is not None and group > 1:
            raise ValueError(f"group={group} needs window: null, for a window mixes its samples one by one")
        self.folder, self.best, self.window, self.group = self.root / shards, best, window, group

    def train_files(self) -> list[Path]:
        return [self.folder / INDEX / "shards.jsonl"]

    def train_pairs(self) -> ShardPairs:
        shards = Shards(self.folder, best=self.best, max_words=self.max_caption_words)
        return ShardPairs(self.folder.name, shards, self.image_size, self.augment, self.window, self.group)
