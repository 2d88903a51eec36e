"""LAION to train on, as img2dataset downloads it."""

from lit_blip2.data.tar_shards import TarShards


class LAION(TarShards):
    """Alt texts, or several captions of CapFilt: an image's `.json` may be a dict with "caption", or a list of
    captions, the best first.

    Args:
        shards: the folder of *.tar, under root.
        best: of an image's captions this many are drawn from, those that are listed first; the paper keeps the two
            best of CapFilt (3.4). null: all.
    """

    def __init__(self, root: str = "data", shards: str = "laion", best: int | None = 2, **kwargs):
        super().__init__(root=root, shards=shards, best=best, **kwargs)
