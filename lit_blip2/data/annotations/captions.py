"""Images with their captions, from caption files.

Layouts: COCO's own ({"images": [...], "annotations": [...]}; NoCaps too, whose images have a domain), LAVIS' list of
{"image", "caption": one or several, "image_id" or "img_id"}, Karpathy's dataset_coco.json and dataset_flickr30k.json
(sentences inside the images), and, for data of one's own, JSON lines, CSV or TSV with image and caption.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lit_blip2.data.annotations.entries import ID_SPACE, Entry, listed_entries, read_json, read_lines
from lit_blip2.data.annotations.strings import Strings, digest_of
from lit_blip2.data.annotations.tables import SEPARATORS, read_table

_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_KARPATHY_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
_DECIMAL = r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?"
_ALL_SPLITS = [name for names in _KARPATHY_SPLITS.values() for name in names]


@dataclass(frozen=True)
class Captions:
    """N images and their M captions, in the order of the file.

    image_ids: int64 [N]; files: N paths relative to the image folder; texts: M cleaned captions, those of
    image i at first[i] to first[i + 1]; first: int64 [N + 1]. empty: captions that were left out. Of a test split also
    written: the M captions as they stand in the file, for published metrics; domains: N, of NoCaps. M is 0 for a test
    split whose captions are a server's secret.
    """

    image_ids: np.ndarray
    files: Strings
    texts: Strings
    first: np.ndarray
    empty: int = 0
    written: Strings | None = None
    domains: Strings | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def of(self, index: int) -> list[str]:
        """All captions of one image."""
        return [self.texts[i] for i in range(self.first[index], self.first[index + 1])]

    def written_of(self, index: int) -> list[str]:
        """All captions of one image of a test split, as they stand in the file."""
        return [self.written[i] for i in range(self.first[index], self.first[index + 1])]

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, str]:
        """One caption of one image, all equally likely. Draws from `rng` once, however many there are."""
        start, end = self.first[index], self.first[index + 1]
        return {"caption": self.texts[start + int(rng.random() * (end - start))]}

    def digest(self) -> str:
        """Of all images' names and captions."""
        given = (each for each in (self.files, self.texts, self.written, self.domains) if each is not None)
        return digest_of(self.image_ids, self.first, *(part for each in given for part in each.arrays()))


def clean_caption(text: str, max_words: int = 50) -> str:
    """Lower case, `.!"()*#:;~` to spaces, spaces collapsed, at most `max_words` words (NUMERICS)."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split()[:max_words])


def read_captions(path: str | Path, split: str = "train", max_words: int = 50) -> Captions:
    """Read a caption file in any of the layouts. `split` (train, val, test) selects in Karpathy's.

    An empty caption is left out if its image has another one; the number left out is warned about once. So is it that
    a test split has images and no captions at all, which only COCO's and LAVIS' layouts allow.

    Raises FileNotFoundError, or ValueError naming the file and the id for: no images, an image twice, an
    image without a caption, an annotation of an image that is not listed, a layout that is not known.
    """
    path, content = Path(path), None
    if path.suffix in (".jsonl", *SEPARATORS):
        ids, files, captions = _parse_table(path)
    else:
        content = read_json(path)
        ids, files, captions = _parse(content, path, split)
    if not ids:
        raise ValueError(f"{path}: no images of split {split!r}")
    image_ids = np.array(ids, dtype=np.int64)
    if split == "test" and not any(captions):
        warnings.warn(f"{path} holds no captions: they are generated, not scored", stacklevel=2)
        made = _captions(image_ids, files, captions, 0)
    else:
        made = make_captions(path, image_ids, files, captions, max_words)
    if split != "test":
        return made
    written = Strings(text for texts in captions for text in texts if clean_caption(text, max_words))
    return replace(made, written=written, domains=_domains(content, path))


def make_captions(
    path: str | Path, image_ids: np.ndarray, files: Sequence[str], captions: Sequence[Sequence[str]], max_words: int
) -> Captions:
    """Clean, and leave out what is empty, as `read_captions` says. path: for the messages."""
    cleaned = [[clean_caption(text, max_words) for text in texts] for texts in captions]
    kept = [[text for text in texts if text] for texts in cleaned]
    for image_id, texts in zip(image_ids.tolist(), kept, strict=True):
        if not texts:
            raise ValueError(f"{path}: image {image_id} has no caption, or only empty ones")
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
    """Ids of the images that a caption file is there to evaluate on: of Karpathy's those of val and test, else all."""
    content = read_json(path)
    if isinstance(content, dict) and _is_karpathy(top := Entry(content, path)):
        return {number for split in ("val", "test") for number in _parse_karpathy(top, split)[0]}
    return set(_parse(content, Path(path), "test")[0])


def image_files(path: str | Path) -> dict[int, str]:
    """image id -> file, of COCO's captions or Visual Genome's image_data.json. ValueError for another layout."""
    content = read_json(path)
    if isinstance(content, dict) and "images" in content:
        return list_images(Entry(content, path).entries("images"))
    if isinstance(content, list) and content and any("url" in image for image in listed_entries(content, path)):
        files = list_images(listed_entries(content, path), "image_id", "url")
        return {image_id: vg_file(url) for image_id, url in files.items()}
    raise ValueError(f"{path} names no images: it is neither COCO's captions nor Visual Genome's image_data.json")


def vg_file(url: str) -> str:
    """Where an image of Visual Genome's image_data.json lies, by its URL, such as VG_100K_2/1.jpg."""
    return "/".join(url.rsplit("/", 2)[1:])


def list_images(images: list[Entry], key: str = "id", name: str = "file_name") -> dict[int, str]:
    """image id -> file name, of a COCO file's "images". ValueError names an id that is listed twice."""
    files: dict[int, str] = {}
    for image in images:
        if (image_id := image.image_id(key)) in files:
            raise image.error(f"image id {image_id} is listed twice")
        files[image_id] = image.file(name)
    return files


def _parse(content, path: Path, split: str) -> tuple[list[int], list[str], list[list[str]]]:
    if isinstance(content, list):
        return _parse_lavis(listed_entries(content, path), path, split)
    top = Entry(content, path)
    if "images" in top and "annotations" in top:
        return _parse_coco(top, top.entries("annotations"))
    if _is_karpathy(top):
        return _parse_karpathy(top, split)
    if "images" in top and split == "test":
        return _parse_coco(top, [])
    raise top.error(
        "neither COCO's {images, annotations} nor a list of {image, caption} nor Karpathy's {images with sentences}:"
        f" its keys are {sorted(content)}"
    )


def _parse_coco(top: Entry, annotations: list[Entry]):
    files = list_images(top.entries("images"))
    captions: dict[int, list[str]] = {image_id: [] for image_id in files}
    for annotation in annotations:
        if (image_id := annotation.image_id()) not in captions:
            raise annotation.error(f"it belongs to image {image_id}, which is not in the list of images")
        captions[image_id].append(annotation.text("caption", null=""))
    return list(files), list(files.values()), list(captions.values())


def _domains(content, path: Path) -> Strings | None:
    """The domain of each image of NoCaps, None elsewhere."""
    images = Entry(content, path).entries("images") if isinstance(content, dict) else []
    if not any("domain" in image for image in images):
        return None
    if without := [image.image_id("id") for image in images if "domain" not in image]:
        raise ValueError(f"{path}: {len(without)} images have no domain, the first is image {without[0]}")
    return Strings(image.text("domain") for image in images)


def _parse_lavis(rows: list[Entry], path: Path, split: str):
    """One image may have several rows (training) or one row with several captions (evaluation)."""
    return _of_rows(rows, path, split != "test", number=lambda file, _: _trailing_number(Path(file).stem, path))


def _parse_table(path: Path):
    """JSON lines, CSV or TSV with "image" and "caption", a row or several for each image; images without image_id are
    numbered."""
    rows = read_table(path) if path.suffix in SEPARATORS else read_lines(path)
    return _of_rows(rows, path, caption_needed=True, number=lambda _, place: place)


def _of_rows(rows: list[Entry], path: Path, caption_needed: bool, number: Callable[[str, int], int]):
    """Images and captions of rows that name both. number: an image's id by its file and its place, where none is given.

    Raises ValueError for an image with two ids, and for an id of two images.
    """
    captions: dict[str, list[str]] = defaultdict(list)
    given: dict[str, int] = {}
    for row in rows:
        if "image" not in row or (caption_needed and "caption" not in row):
            raise row.error(f"needs image and caption, and has {', '.join(sorted(map(str, row.values)))}")
        file, image_id = row.file("image"), _given_id(row)
        captions[file] += row.texts("caption", *([] if caption_needed else [[]]))
        if image_id is not None and given.setdefault(file, image_id) != image_id:
            raise row.error(f"{file} has image id {image_id}, and {given[file]} in a row before")
    ids = [given[file] if file in given else number(file, place) for place, file in enumerate(captions)]
    file_of: dict[int, str] = {}
    for file, image_id in zip(captions, ids, strict=True):
        if file_of.setdefault(image_id, file) != file:
            raise ValueError(f"{path}: image id {image_id} stands for both {file_of[image_id]} and {file}")
    return ids, list(captions), list(captions.values())


def _given_id(row: Entry) -> int | None:
    """image_id or img_id of a row, None where neither says something: 42 -> 42, "coco_42" -> 42."""
    for key in ("image_id", "img_id"):
        value = row.values.get(key)
        if isinstance(value, str) and value and not re.fullmatch(_DECIMAL, value):
            return _trailing_number(value, row.path)
        if value is not None and value != "":
            return row.image_id(key)
    return None


def _is_karpathy(top: Entry) -> bool:
    return "images" in top and any("sentences" in image for image in top.entries("images"))


def _parse_karpathy(top: Entry, split: str):
    files: dict[int, str] = {}
    captions = []
    for image in top.entries("images"):
        if (own := image.text("split")) not in _ALL_SPLITS:
            raise image.error(f"split is {own!r}, and must be one of {', '.join(_ALL_SPLITS)}")
        if own not in _KARPATHY_SPLITS[split]:
            continue
        if (image_id := image.image_id("cocoid" if "cocoid" in image else "imgid")) in files:
            raise image.error(f"image id {image_id} is listed twice")
        files[image_id] = f"{image.text('filepath', default='')}/{image.file('filename')}".lstrip("/")
        captions.append([sentence.text("raw", null="") for sentence in image.entries("sentences")])
    return list(files), list(files.values()), captions


def _trailing_number(name: str, path: str | Path) -> int:
    """ "coco_42" and "COCO_val2014_000000000042" -> 42."""
    if not (digits := re.search(r"[0-9]+$", name)):
        raise ValueError(f"{path}: no number at the end of {name!r}: give the row an integer image_id")
    if (number := int(digits.group())) >= ID_SPACE:
        raise ValueError(f"{path}: image id {number} does not lie in 0..{ID_SPACE - 1}")
    return number
