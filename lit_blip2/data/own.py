"""Your own images as training data, with their captions in a CSV, TSV or JSONL file."""

from os.path import expanduser  # a shell leaves the ~ of --data.root=~/photos
from pathlib import Path

from lit_blip2.data.annotations.caption_layouts import Columns
from lit_blip2.data.annotations.captions import Captions, read_captions
from lit_blip2.data.batches.pairs import FilePairs
from lit_blip2.data.module import PairData, check_names


class OwnData(PairData):
    """A folder of images, and a CSV, TSV or JSONL file with a caption for each (docs/own_data.md).

    The file may also name images by absolute paths. If it has a column `split` (train, val or test), give the same
    file as train, val and test. `test` may also be a folder: then all images in it are captioned.

    Args:
        root: folder that holds the images and the files below.
        images: folder of the images, under root; ".": root itself.
        train: captions to train on, a CSV, TSV or JSONL file with the columns image and caption; needed for `fit`.
        columns: names of these two columns in your file, such as {image: filename, caption: description}; null: the
            columns are called image and caption.
    """

    how_to_get = (
        "data.root is the folder of your pictures and data.train a CSV, TSV or JSONL in it, of image and caption: "
        "docs/own_data.md. Pictures without captions can be captioned by a trained run: python -m lit_blip2 caption"
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
