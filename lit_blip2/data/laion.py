"""LAION as training data, in the tar shards that img2dataset writes."""

from lit_blip2.data.tar_shards import TarShards


class LAION(TarShards):
    """LAION images with their alt texts, or with several CapFilt captions each.

    The `.json` of an image in a tar is a dict with the key "caption", or a list of captions with the best first.

    Args:
        shards: folder of the *.tar files, under root.
        best: number of captions of an image that training draws from, counted from the first; null: all. The default
            2 is the paper's (section 3.4): it keeps the two best CapFilt captions.
    """

    def __init__(self, root: str = "data", shards: str = "laion", best: int | None = 2, **kwargs):
        super().__init__(root=root, shards=shards, best=best, **kwargs)
