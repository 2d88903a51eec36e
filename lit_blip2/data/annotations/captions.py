"""Images with their captions, from caption files.

Layouts: COCO's own ({"images": [...], "annotations": [...]}; NoCaps too, whose images have a domain), LAVIS' list of
{"image", "caption": one or several, "image_id" or "img_id"}, Karpathy's dataset_coco.json and dataset_flickr30k.json
(sentences inside the images), and, for data of one's own, JSON lines or CSV with image and caption.
"""

import csv
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lit_blip2.data.annotations.strings import Strings, digest_of

ID_SPACE = 1 << 44  # image ids of one source of a mixture: more than any source's ids
_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_KARPATHY_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


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
    if path.suffix in (".jsonl", ".csv"):
        ids, files, captions = _parse_table(path)
    else:
        content = load_json(path)
        ids, files, captions = _parse(content, path, split)
    if not ids:
        raise ValueError(f"{path}: no images of split {split!r}")
    if wrong := [number for number in ids if not 0 <= number < ID_SPACE]:
        raise ValueError(f"{path}: image id {wrong[0]} does not lie in 0..{ID_SPACE - 1}")
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
    try:
        return _captions(image_ids, files, kept, empty)
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can hold
        raise ValueError(f"{path}: {error.object[:60]!r} is no text in UTF-8") from error


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
    content = load_json(path)
    if isinstance(content, dict) and all("sentences" in image for image in content.get("images", ())):
        return {number for split in ("val", "test") for number in _parse_karpathy(content, Path(path), split)[0]}
    return set(_parse(content, Path(path), "test")[0])


def load_json(path: str | Path):
    """The content of a JSON file. ValueError names the file that is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def image_files(path: str | Path) -> dict[int, str]:
    """image id -> file, of COCO's captions or Visual Genome's image_data.json. ValueError for another layout."""
    content = load_json(path)
    if isinstance(content, dict) and "images" in content:
        return list_images(content["images"], path)
    if isinstance(content, list) and content and all("url" in image for image in content):
        return {image["image_id"]: vg_file(image) for image in content}
    raise ValueError(f"{path} names no images: it is neither COCO's captions nor Visual Genome's image_data.json")


def vg_file(image: dict) -> str:
    """Where an image of Visual Genome's image_data.json lies, such as VG_100K_2/1.jpg."""
    return "/".join(image["url"].rsplit("/", 2)[1:])


def list_images(images: list[dict], path: str | Path) -> dict[int, str]:
    """image id -> file name, of a COCO file's "images". ValueError names an id that is listed twice."""
    files: dict[int, str] = {}
    for image in images:
        if image["id"] in files:
            raise ValueError(f"{path}: image id {image['id']} is listed twice")
        files[image["id"]] = image["file_name"]
    return files


def _parse(content, path: Path, split: str) -> tuple[list[int], list[str], list[list[str]]]:
    if isinstance(content, list):
        return _parse_lavis(content, path, split)
    if "images" in content and "annotations" in content:
        return _parse_coco(content, path)
    if "images" in content and all("sentences" in image for image in content["images"]):
        return _parse_karpathy(content, path, split)
    if "images" in content and split == "test":
        return _parse_coco(content | {"annotations": []}, path)
    raise ValueError(
        f"{path} is neither COCO's {{images, annotations}} nor a list of {{image, caption}} nor Karpathy's"
        f" {{images with sentences}}: its keys are {sorted(content)}"
    )


def _parse_coco(content: dict, path: Path):
    files = list_images(content["images"], path)
    captions: dict[int, list[str]] = {image_id: [] for image_id in files}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in captions:
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} belongs to image {annotation['image_id']},"
                " which is not in its list of images"
            )
        captions[annotation["image_id"]].append(annotation["caption"])
    return list(files), list(files.values()), list(captions.values())


def _domains(content, path: Path) -> Strings | None:
    """The domain of each image of NoCaps, None elsewhere."""
    images = content["images"] if isinstance(content, dict) else []
    if not any("domain" in image for image in images):
        return None
    if without := [image["id"] for image in images if "domain" not in image]:
        raise ValueError(f"{path}: {len(without)} images have no domain, the first is image {without[0]}")
    return Strings(image["domain"] for image in images)


def _parse_lavis(rows: list[dict], path: Path, split: str):
    """One image may have several rows (training) or one row with several captions (evaluation)."""
    needed = {"image"} if split == "test" else {"image", "caption"}
    captions: dict[str, list[str]] = defaultdict(list)
    ids: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not needed <= row.keys():
            raise ValueError(f"{path}: entry {number} needs image and caption, and is {str(row)[:100]}")
        caption = row.get("caption", [])
        captions[row["image"]] += [caption] if isinstance(caption, str) else caption
        ids[row["image"]] = _number(row.get("image_id", row.get("img_id", Path(row["image"]).stem)), path)
    file_of: dict[int, str] = {}
    for file, image_id in ids.items():
        if file_of.setdefault(image_id, file) != file:
            raise ValueError(f"{path}: image id {image_id} stands for both {file_of[image_id]} and {file}")
    return list(ids.values()), list(ids), list(captions.values())


def _parse_table(path: Path):
    """JSON lines or CSV with "image" and "caption", a row or several for each image; images without image_id are
    numbered."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # which a spreadsheet begins with a mark
            lines = (
                csv.DictReader(file) if path.suffix == ".csv" else (json.loads(line) for line in file if line.strip())
            )
            rows = list(lines)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    captions: dict[str, list[str]] = defaultdict(list)
    ids: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if not row.get("image") or row.get("caption") is None:
            raise ValueError(f"{path}: row {number} needs image and caption, and has {sorted(filter(None, row))}")
        caption = row["caption"]
        captions[row["image"]] += [caption] if isinstance(caption, str) else caption
        ids[row["image"]] = int(row.get("image_id") or ids.get(row["image"], len(ids)))
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"{path}: two images have one image_id: give it to all of them, or to none")
    return list(ids.values()), list(ids), list(captions.values())


def _parse_karpathy(content: dict, path: Path, split: str):
    images = [image for image in content["images"] if image["split"] in _KARPATHY_SPLITS[split]]
    named = [
        {
            "id": image.get("cocoid", image["imgid"]),
            "file_name": f"{image.get('filepath', '')}/{image['filename']}",
        }
        for image in images
    ]
    files = list_images(named, path)
    captions = [[sentence["raw"] for sentence in image["sentences"]] for image in images]
    return list(files), [file.lstrip("/") for file in files.values()], captions


def _number(image_id: int | str, path: Path) -> int:
    """The number of an image: 42 -> 42, "coco_42" and "COCO_val2014_000000000042" -> 42."""
    if isinstance(image_id, int):
        return image_id
    if digits := re.search(r"\d+$", image_id):
        return int(digits.group())
    raise ValueError(f"{path}: no number at the end of {image_id!r}: give the row an integer image_id")
