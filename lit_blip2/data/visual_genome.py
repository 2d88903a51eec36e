"""Visual Genome as training data: each region description is a caption of the whole image."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.caption_layouts import list_images
from lit_blip2.data.annotations.captions import (
    Captions,
    clean_caption,
    evaluated_ids,
    make_captions,
    vg_file,
)
from lit_blip2.data.annotations.entries import listed_entries, read_json
from lit_blip2.data.batches.pairs import FilePairs
from lit_blip2.data.module import PairData, check_names


class VisualGenome(PairData):
    """Visual Genome images with their region descriptions. Each time an image comes, one description is drawn.

    Args:
        images: folder that holds VG_100K and VG_100K_2, under root; ".": root itself.
        image_data: the official image_data.json.
        regions: the official region_descriptions.json.
        evaluated: COCO caption files that you validate and test on, or Karpathy's dataset_coco.json. Half of Visual
            Genome's images are COCO's: those in these files are left out of training, and counted. Empty: a warning.
    """

    def __init__(
        self,
        root: str = "data/vg",
        images: str = ".",
        image_data: str = "image_data.json",
        regions: str = "region_descriptions.json",
        evaluated: Sequence[str] = (),
        **kwargs,
    ):
        super().__init__(root=root, images=images, **kwargs)
        check_names(image_data=image_data, regions=regions)
        self.image_data, self.regions, self.evaluated = image_data, regions, list(evaluated)

    def train_files(self) -> list[Path]:
        return [self.root / file for file in (self.image_data, self.regions, *self.evaluated)]

    def train_pairs(self) -> FilePairs:
        if not self.evaluated:
            text = "half of Visual Genome's images are COCO's: name those to evaluate on in data.evaluated"
            warnings.warn(text, stacklevel=2)
        out = [evaluated_ids(self.root / file) for file in self.evaluated]
        captions = read_regions(
            self.root / self.image_data, self.root / self.regions, set().union(*out), self.max_caption_words
        )
        return FilePairs("visual_genome", captions, self.pixels("train", captions.files), self.augment)


def read_regions(image_data: Path, regions: Path, leave_out: set[int], max_words: int = 50) -> Captions:
    """Read Visual Genome's two files.

    One log line counts what is left out: images whose COCO id is in `leave_out`, images without a region, and empty
    phrases. Raises DataError, with file and image id, for regions of an unlisted image, and if no image is left.

    Args:
        image_data: the official image_data.json. regions: the official region_descriptions.json.
        leave_out: COCO ids of the images that an experiment evaluates on. max_words: longest caption, in words.
    """
    images = listed_entries(read_json(image_data), image_data)
    files = list_images(images, "image_id", "url")
    listed = dict(zip(files, images, strict=True))
    phrases: dict[int, list[str]] = {image_id: [] for image_id in listed}
    for entry in listed_entries(read_json(regions), regions):
        if (image_id := entry.image_id(key := "id" if "id" in entry else "image_id")) not in phrases:
            raise entry.error(f"image {entry.name(key)} has regions and is not in {image_data}")
        for region in entry.entries("regions"):
            if region.values.get("image_id", image_id) != image_id and region.image_id() != image_id:
                raise region.error(f"it is of image {region.name('image_id')}, among those of image {entry.name(key)}")
            phrases[image_id].append(region.text("phrase", null=""))
    kept = [image_id for image_id, image in listed.items() if image.number("coco_id", default=None) not in leave_out]
    said = {image_id: [text for text in phrases[image_id] if clean_caption(text)] for image_id in kept}
    bare = [image_id for image_id in kept if not said[image_id]]
    empty = sum(len(phrases[image_id]) - len(said[image_id]) for image_id in kept)
    rank_zero_info(
        f"{image_data}: {len(listed)} images; left out: {len(listed) - len(kept)} that COCO evaluates on, "
        f"{len(bare)} without a region; {empty} empty phrases"
    )
    kept = [image_id for image_id in kept if said[image_id]]
    if not kept:
        raise DataError(f"{regions}: of {len(listed)} images in {image_data} none is left to train on")
    return make_captions(
        regions, np.array(kept, dtype=np.int64), [vg_file(files[i]) for i in kept], [said[i] for i in kept], max_words
    )
