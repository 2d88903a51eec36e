"""CC3M, CC12M and SBU to train on, as img2dataset downloads them."""

from pathlib import Path

from lit_blip2.data.module import PairData
from lit_blip2.data.pairs import ShardPairs
from lit_blip2.data.shards import INDEX, Shards


class ConceptualCaptions(PairData):
    """Tar shards of images with captions, read by number through an index: `python -m lit_blip2 data index FOLDER`.

    Args:
        shards: the folder of *.tar, under root.
        best: of an image's captions this many are drawn from, those that are listed first; the paper keeps the two
            best of CapFilt (3.4). null: all.
    """

    def __init__(self, root: str = "data", shards: str = "cc3m", best: int | None = 2, **kwargs):
        super().__init__(root=root, **kwargs)
        self.folder, self.best = self.root / shards, best

    def train_files(self) -> list[Path]:
        return [self.folder / INDEX / "shards.jsonl"]

    def train_pairs(self) -> ShardPairs:
        shards = Shards(self.folder, best=self.best, max_words=self.max_caption_words)
        return ShardPairs(self.folder.name, shards, self.image_size, self.augment)
