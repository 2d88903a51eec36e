"""Pictures of one's own to train on, with their captions in a table or in JSON lines."""

from os.path import expanduser  # a shell leaves the ~ of --data.root=~/photos
from pathlib import Path

from lit_blip2.data.annotations.caption_layouts import Columns
from lit_blip2.data.annotations.captions import Captions, read_captions
from lit_blip2.data.batches.pairs import FilePairs
from lit_blip2.data.module import PairData, check_names


class OwnData(PairData):
    """A folder of pictures, and a file that names each of them with its caption: see docs/own_data.md.

    Pictures may also be named by absolute paths. Where the rows of a file have a column `split` (train, val, test), the
    same file can be given as train, val and test. A folder in the place of `test` stands for all pictures in it.

    Args:
        root: folder of the pictures and of the files below.
        images: folder of the pictures, under root.
        train: captions to train on: CSV, TSV or JSONL of image and caption.
        columns: what the file calls these two, such as {image: filename, caption: description}; null: image and
            caption.
    """

    how_to_get = (
        "data.root is the folder of your pictures and data.train a CSV, TSV or JSONL in it, of image and caption: "
        "docs/own_data.md"
    )

    def __init__(
        self,
        root: str = ".",
        images: str = ".",
        train: str | None = None,
        columns: Columns | None = None,
        **kwargs,
    ):
        super().__init__(root=expanduser(root), images=expanduser(images), **kwargs)
        check_names(train=train)
        self.train, self.columns = train and expanduser(train), columns

    def train_files(self) -> list[Path]:
        if self.train is None:
            raise ValueError("fit needs captions to train on: set data.train to a CSV, TSV or JSONL of image, caption")
        return [self.root / self.train]

    def train_pairs(self) -> FilePairs:
        captions = self.read_captions(self.train, "train")
        return FilePairs(self.train, captions, self.pixels("train", captions.files), self.augment)

    def read_captions(self, file: str, split: str) -> Captions:
        return read_captions(self.root / file, split, self.max_caption_words, self.columns)
