"""COCO captions as training data. The mini-world uses the same file formats."""

from pathlib import Path

from lit_blip2.data.batches.pairs import FilePairs
from lit_blip2.data.module import PairData, check_names


class COCO(PairData):
    """Images with COCO captions. Each time an image comes, one of its captions is drawn.

    The caption file may be COCO's own json, LAVIS' list or Karpathy's dataset_coco.json.

    Args:
        train: captions to train on, a file under root; needed for `fit`.
        group: number of consecutive images that always share a batch; 1: all images are shuffled one by one. 2 keeps
            the pairs of the mini-world with swapped attributes together, as hard negatives.
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
