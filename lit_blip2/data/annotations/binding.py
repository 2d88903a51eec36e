"""Binding pairs: a caption, the image that it is true of, and the same image with two attributes swapped.

"A red circle and a blue square" has the same words as "a blue circle and a red square", so a bag of attributes
cannot tell which of the two images it describes.
"""

from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath

import numpy as np

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.caption_layouts import list_images
from lit_blip2.data.annotations.captions import clean_caption
from lit_blip2.data.annotations.entries import Entry, read_json
from lit_blip2.data.annotations.strings import Strings


@dataclass(frozen=True)
class Pairs:
    """P pairs. image_ids, swapped_image_ids: int64 [P]; files, swapped_files, captions: P strings each."""

    image_ids: np.ndarray
    swapped_image_ids: np.ndarray
    files: Strings
    swapped_files: Strings
    captions: Strings

    def __len__(self) -> int:
        return len(self.image_ids)


def read_binding(path: str | Path, max_words: int = 50) -> Pairs:
    """Read {"images": [{id, file_name}], "pairs": [{image_id, caption, swapped_image_id}]}.

    Raises FileNotFoundError, or DataError naming the file and the id for: no pairs, an empty caption, an image
    that is unlisted or listed twice, an image paired with itself.
    """
    content = Entry(read_json(path), path)
    files = list_images(content.entries("images"))
    rows = [(row.image_id(), row.image_id("swapped_image_id"), row) for row in content.entries("pairs")]
    if not rows:
        raise DataError(f"{path} holds no pairs")
    captions = [clean_caption(row.text("caption"), max_words) for _, _, row in rows]
    for (first, second, row), caption in zip(rows, captions, strict=True):
        named = (row.name("image_id"), row.name("swapped_image_id"))
        if unknown := [name for name, image_id in zip(named, (first, second)) if image_id not in files]:
            raise row.error(f"image {unknown[0]} of pair ({named[0]}, {named[1]}) is not in the list of images")
        if normpath(files[first]) == normpath(files[second]) or not caption:
            raise row.error(f"pair ({named[0]}, {named[1]}) needs two images and a caption")
    return Pairs(
        image_ids=np.array([first for first, _, _ in rows], dtype=np.int64),
        swapped_image_ids=np.array([second for _, second, _ in rows], dtype=np.int64),
        files=Strings(files[first] for first, _, _ in rows),
        swapped_files=Strings(files[second] for _, second, _ in rows),
        captions=Strings(captions),
    )
