"""Tables of images and their captions. `caption_layouts` reads the files."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import normpath

import numpy as np

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.caption_layouts import Columns, images_in, is_karpathy, karpathys_files, list_images
from lit_blip2.data.annotations.entries import Entry, listed_entries, read_json
from lit_blip2.data.annotations.ids import Name, image_number, name_of, written
from lit_blip2.data.annotations.strings import Strings, digest_of
from lit_blip2.terminal import first_few

MOST_NAMED = 5  # images in a message
_PUNCTUATION = re.compile(r'[.!"()*#:;~]')


@dataclass(frozen=True)
class Captions:
    """N images and their M captions, in the order of the file.

    image_ids: int64 [N]; files: N paths relative to the image folder; texts: M cleaned captions, those of
    image i at first[i] to first[i + 1]; first: int64 [N + 1]; empty: number of empty captions left out. A test split
    also has written: the M captions unchanged from the file, for published metrics; and domains: N domains, for NoCaps
    only. M is 0 for a test split whose captions a server keeps secret. written_ids: N ids in JSON as the file spells
    them, if any of them is a text.
    """

    image_ids: np.ndarray
    files: Strings
    texts: Strings
    first: np.ndarray
    empty: int = 0
    written: Strings | None = None
    domains: Strings | None = None
    written_ids: Strings | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def of(self, index: int) -> list[str]:
        """All captions of one image."""
        return [self.texts[i] for i in range(self.first[index], self.first[index + 1])]

    def written_of(self, index: int) -> list[str]:
        """All captions of one image of a test split, as they stand in the file."""
        return [self.written[i] for i in range(self.first[index], self.first[index + 1])]

    def written_id(self, index: int) -> Name:
        """The id of an image as its file spells it."""
        return name_of(self.image_ids[index], self.written_ids, index)

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, str]:
        """One caption of an image, each equally likely. Draws from `rng` exactly once."""
        start, end = self.first[index], self.first[index + 1]
        return {"caption": self.texts[start + int(rng.random() * (end - start))]}

    def digest(self) -> str:
        """A hash of all file names, captions, domains and ids."""
        texts = (self.files, self.texts, self.written, self.domains, self.written_ids)
        return digest_of(self.image_ids, self.first, *texts)


def clean_caption(text: str, max_words: int = 50) -> str:
    """Lower-case, replace `.!"()*#:;~` by spaces, collapse spaces and keep `max_words` words, as LAVIS does."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split()[:max_words])


def read_captions(
    path: str | Path, split: str = "train", max_words: int = 50, columns: Columns | None = None
) -> Captions:
    """Read a caption file in any known layout.

    An empty caption is left out if its image has another one; one warning gives the number. Another warning says if a
    test split has images but no captions at all.

    split: train, val or test; selects images in Karpathy's files, and in others whose rows name several splits.
    columns: the columns of image and caption, if they have other names. Raises FileNotFoundError, or DataError naming
    the file and the id for: no images, an image listed twice, an image without a caption, an annotation of an unlisted
    image, an unknown layout.
    """
    images = images_in(path, split, columns=columns)
    if not images:
        raise DataError(f"{path}: no images of split {split!r}")
    names, files, captions, domains = zip(*images, strict=True)
    _check_ids(path, split, names, files)
    image_ids = np.array([image_number(name) for name in names], dtype=np.int64)
    if split == "test" and not any(captions):
        warnings.warn(f"{path} holds no captions: they are generated, not scored", stacklevel=2)
        made = _captions(image_ids, files, captions, 0)
    else:
        made = make_captions(path, image_ids, files, captions, max_words, names)
    made = replace(made, written_ids=written(names))
    if split != "test":
        return made
    as_written = Strings(text for texts in captions for text in texts if clean_caption(text, max_words))
    return replace(made, written=as_written, domains=_domains(domains, names, path))


def _check_ids(path: str | Path, split: str, names: Sequence[Name], files: Sequence[str]) -> None:
    """Check that no file has two ids. It would count as two images, of which retrieval finds at most one, so val and
    test raise DataError. Training only warns: the image is now and then a negative of itself."""
    id_of: dict[str, Name] = {}
    twice = [
        (file, id_of[key], name)
        for name, file in zip(names, files)
        if id_of.setdefault(key := normpath(file), name) != name
    ]
    if twice:
        file, one, two = twice[0]
        said = f"{path}: {len(twice)} images are listed again under another id, such as {file} under {one} and {two}"
        if split != "train":
            raise DataError(f"{said}: list each file once, with all its captions")
        warnings.warn(f"{said}: contrast takes them for different images", stacklevel=3)


def _domains(domains: Sequence[str | None], names: Sequence[Name], path: str | Path) -> Strings | None:
    """The domain of each image of NoCaps; None for other data. Raises DataError if only some images have one."""
    if without := [name for name, domain in zip(names, domains, strict=True) if domain is None]:
        if len(without) < len(names):
            raise DataError(f"{path}: {len(without)} images have no domain, the first is image {without[0]}")
        return None
    return Strings(domains)


def make_captions(
    path: str | Path,
    image_ids: np.ndarray,
    files: Sequence[str],
    captions: Sequence[Sequence[str]],
    max_words: int,
    names: Sequence[Name] | None = None,
) -> Captions:
    """Clean captions and leave out empty ones, as in `read_captions`. path, names (ids of images): for messages."""
    cleaned = [[clean_caption(text, max_words) for text in texts] for texts in captions]
    kept = [[text for text in texts if text] for texts in cleaned]
    named = zip(names or image_ids.tolist(), files, kept, strict=True)
    if bare := [(f"image {name}", file) for name, file, texts in named if not texts]:
        images, paths = (first_few(each, MOST_NAMED) for each in zip(*bare))
        has = "has" if len(bare) == 1 else "have"
        raise DataError(f"{path}: {images} {has} no caption, or only empty ones ({paths})")
    if empty := sum(map(len, cleaned)) - sum(map(len, kept)):
        warnings.warn(f"{path}: {empty} empty captions left out", stacklevel=3)
    return _captions(image_ids, files, kept, empty)


def _captions(image_ids: np.ndarray, files: Sequence[str], kept: list[list[str]], empty: int) -> Captions:
    return Captions(
        image_ids=image_ids,
        files=Strings(files),
        texts=Strings(text for texts in kept for text in texts),
        first=np.concatenate([[0], np.cumsum([len(texts) for texts in kept], dtype=np.int64)]),
        empty=empty,
    )


def evaluated_ids(path: str | Path) -> set[int]:
    """Ids of the images to evaluate on: those of val and test if a caption file holds several splits, else all."""
    return {image_number(each.name) for each in images_in(path, "val", "test")}


def image_files(path: str | Path) -> dict[int, str]:
    """image id -> file, for captions of COCO or Karpathy, or Visual Genome's image_data.json. Raises DataError for
    another layout."""
    content = read_json(path)
    if isinstance(content, dict) and "images" in content:
        top = Entry(content, path)
        return karpathys_files(top) if is_karpathy(top) else list_images(top.entries("images"))
    if isinstance(content, list) and content and any("url" in image for image in listed_entries(content, path)):
        files = list_images(listed_entries(content, path), "image_id", "url")
        return {image_id: vg_file(url) for image_id, url in files.items()}
    raise DataError(
        f"{path} names no images: it is neither COCO's or Karpathy's captions nor Visual Genome's image_data.json"
    )


def vg_file(url: str) -> str:
    """The path of a Visual Genome image, such as VG_100K_2/1.jpg, from its URL in image_data.json."""
    return "/".join(url.rsplit("/", 2)[1:])
