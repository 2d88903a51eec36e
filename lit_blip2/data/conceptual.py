"""CC3M, CC12M and SBU as training data, in the tar shards that img2dataset writes."""

from lit_blip2.data.tar_shards import TarShards


class ConceptualCaptions(TarShards):
    """Images of CC3M, CC12M or SBU with their alt texts, or with several CapFilt captions each.

    Args:
        shards: folder of the *.tar files, under root, such as cc3m, cc12m or sbu.
        best: number of captions of an image that training draws from, counted from the first; null: all. The default
            2 is the paper's (section 3.4): it keeps the two best CapFilt captions.
    """

    def __init__(self, root: str = "data", shards: str = "cc3m", best: int | None = 2, **kwargs):
        super().__init__(root=root, shards=shards, best=best, **kwargs)
