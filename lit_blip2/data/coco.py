"""COCO's captions to train on. The mini-world is written in the same files."""

from pathlib import Path

from lit_blip2.data.batches.pairs import FilePairs
from lit_blip2.data.module import PairData, check_names


class COCO(PairData):
    """Images with captions in COCO's json, LAVIS' list or Karpathy's dataset_coco.json, one caption drawn each time.

    Args:
        train: captions to train on.
        group: this many consecutive images stay in one batch; 2 keeps the mini-world's swap partners together.
    """

    def __init__(self, root: str = "data/mini", train: str | None = None, group: int = 1, **kwargs):
        super().__init__(root=root, **kwargs)
        check_names(train=train)
        self.train, self.group = train, group

    def train_files(self) -> list[Path]:
        if self.train is None:
            raise ValueError("fit needs captions to train on: set data.train to a caption file")
        return [self.root / self.train]

    def train_pairs(self) -> FilePairs:
        captions = self.read_captions(self.train, "train")
        return FilePairs("coco", captions, self.pixels("train", captions.files), self.augment, self.group)
