"""CC3M, CC12M and SBU to train on, as img2dataset downloads them."""

from lit_blip2.data.tar_shards import TarShards


class ConceptualCaptions(TarShards):
    """Alt texts, or several captions of CapFilt for each image.

    Args:
        shards: the folder of *.tar, under root: cc3m, cc12m or sbu.
        best: of an image's captions this many are drawn from, those that are listed first; the paper keeps the two
            best of CapFilt (3.4). null: all.
    """

    def __init__(self, root: str = "data", shards: str = "cc3m", best: int | None = 2, **kwargs):
        super().__init__(root=root, shards=shards, best=best, **kwargs)
