"""Reads caption files in every known layout, and lists of images without captions, as a server's test set has.

The layouts are COCO ({"images": [...], "annotations": [...]}, also used by VizWiz and by NoCaps, whose images have a
domain), LAVIS' list of {"image", "caption": one or several, "image_id" or "img_id"}, Karpathy's dataset_coco.json and
dataset_flickr30k.json (sentences inside the images), TextCaps and Flickr30k's results_20130124.token. Your own data may
be JSON lines, CSV or TSV with image and caption, or Hugging Face's metadata.jsonl with file_name and text.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path
from posixpath import normpath
from typing import Any, NamedTuple, TypedDict

from lit_blip2.contents import DataError, read_text
from lit_blip2.data.annotations.entries import Entry, listed_entries, read_json, read_lines
from lit_blip2.data.annotations.ids import Name, image_number, last_digits
from lit_blip2.data.annotations.pictures import pictures_in
from lit_blip2.data.annotations.splits import of_splits
from lit_blip2.data.annotations.tables import SEPARATORS, check_no_nulls, read_table
from lit_blip2.data.annotations.unread import refuse_by_name, what_it_is

_KARPATHY_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


class Columns(TypedDict, total=False):
    """The names of the columns (or keys) that hold the image file and the caption."""

    image: str
    caption: str


class Listed(NamedTuple):
    """An image and its captions, unchanged from the file. name: its id there. domain: NoCaps only."""

    name: Name
    file: str
    captions: list[str]
    domain: str | None = None


def images_in(path: str | Path, *splits: str, columns: Columns | None = None) -> list[Listed]:
    """The images of a caption file, each once. For split "test", `path` may also be a folder of images.

    splits: train, val or test; selects images if the file holds several splits. Images of "test" may lack captions.
    columns: see `read_captions`. Raises FileNotFoundError, or DataError naming the file, the entry and, if known, what
    the file is.
    """
    path = Path(path)
    if "test" in splits and path.is_dir():
        return [Listed(place, file, []) for place, file in enumerate(pictures_in(path))]
    refuse_by_name(path)
    if path.suffix in (".jsonl", *SEPARATORS):
        return _of_table(path, splits, columns)
    if ".token" in path.suffixes:
        return _of_token(path)
    content = read_json(path)
    if isinstance(content, list):
        return _of_list(content, path, splits, columns)
    top = Entry(content, path)
    _check_no_frame(top)
    if is_karpathy(top):
        return _of_karpathy(top, splits)
    what = what_it_is(content)
    if "images" in top and ("annotations" in top or "test" in splits) and "multiple choice" not in what:
        return _of_coco(top, splits)
    if "data" in top and any("image_id" in row and "question" not in row for row in top.entries("data")):
        return _of_textcaps(of_splits(top.entries("data"), splits))
    raise top.error(
        "neither COCO's {images, annotations} nor a list of {image, caption} nor Karpathy's {images with sentences}: "
        + (f"it holds {what}" if what else f"its keys are {sorted(content)}")
    )


def _check_no_frame(top: Entry) -> None:
    """Raises DataError for an object of rows, as pandas writes with orient='index' or 'table'."""
    rows = [row for row in top.values.values() if isinstance(row, dict)]
    numbered = rows and len(rows) == len(top.values) and all({"image", "caption"} <= row.keys() for row in rows)
    if numbered or {"schema", "data"} <= top.values.keys():
        raise top.error("rows of pandas in an object: write a list of them, by to_json(orient='records')")


def karpathys_files(top: Entry) -> dict[int, str]:
    """image id -> file, for all of Karpathy's splits."""
    return {image_number(image.name): image.file for image in _of_karpathy(top, tuple(_KARPATHY_SPLITS))}


def is_karpathy(top: Entry) -> bool:
    """Whether the file is Karpathy's: its images contain their sentences."""
    return "images" in top and any("sentences" in image for image in top.entries("images"))


def _of_karpathy(top: Entry, splits: Sequence[str]) -> list[Listed]:
    """The images of the given splits. Every image names its split, so a file may lack any split."""
    made: dict[int, Listed] = {}
    split_of = {name: split for split, names in _KARPATHY_SPLITS.items() for name in names}
    for image in top.entries("images"):
        if (own := image.text("split")) not in split_of:
            raise image.error(f"split is {own!r}, and must be one of {', '.join(split_of)}")
        if split_of[own] not in splits:
            continue
        if (number := image.image_id(key := "cocoid" if "cocoid" in image else "imgid")) in made:
            raise image.error(f"image id {number} is listed twice")
        file = f"{image.text('filepath', default='')}/{image.file('filename')}".lstrip("/")
        captions = [text for sentence in image.entries("sentences") for text in sentence.texts("raw")]
        made[number] = Listed(image.name(key), file, captions)
    return list(made.values())


def list_images(images: list[Entry], key: str = "id", name: str = "file_name") -> dict[int, str]:
    """image id -> file name, for the "images" of a COCO file. key: the key of the ids; an image without it has "id",
    as in version 1.0 of Visual Genome. Raises DataError for an id that is listed twice."""
    if images and name == "file_name" and not any(name in image for image in images):
        raise images[0].error(
            "no image has a file_name, as in LAVIS' coco_karpathy_test_gt.json: give coco_karpathy_test.json"
            " (as captions alone) or dataset_coco.json, which hold the same captions and say where images are"
        )
    files: dict[int, str] = {}
    for image in images:
        own = "id" if key not in image and "id" in image else key
        if (image_id := image.image_id(own)) in files:
            raise image.error(f"image id {image.name(own)} is listed twice")
        files[image_id] = image.file(name)
    return files


def _of_coco(top: Entry, splits: Sequence[str]) -> list[Listed]:
    """COCO's layout. VizWiz' rejected captions and those chosen from a list are left out, as in its own evaluation."""
    listed, annotations = top.entries("images"), top.entries("annotations", default=[])
    images, files, kept = of_splits(listed, splits), list_images(listed), of_splits(annotations, splits)
    captions = {image.image_id("id"): [] for image in images}
    others: set[int] = set()  # images whose captions all belong to another split
    if kept is not annotations:
        others = {each.image_id() for each in annotations} - {each.image_id() for each in kept}
    refused: list[int] = []
    for annotation in kept:
        if (image_id := annotation.image_id()) not in captions:
            if image_id in files:  # an image of another split
                continue
            name = annotation.name("image_id")
            raise annotation.error(f"it belongs to image {name}, which is not in the list of images")
        if "foil" in annotation:
            raise annotation.error("FOIL's captions, half of them false: give COCO's own captions_*.json")
        if "caption" not in annotation and "category_id" in annotation:
            raise annotation.error(
                "a box and no caption: COCO's captions are in captions_*.json, not in instances_*.json"
            )
        if annotation.flag("is_rejected") or annotation.flag("is_precanned"):
            refused.append(image_id)
        else:
            captions[image_id].extend(annotation.texts("caption"))
    bare = {image_id for image_id in refused if not captions[image_id]}
    if refused:
        said = f"{len(refused)} captions left out, rejected or chosen from a list"
        said += f"; {len(bare)} images left out, whose captions are all rejected" if bare else ""
        warnings.warn(f"{top.path}: {said}", stacklevel=4)
    return [
        Listed(image.name("id"), files[number], captions[number], image.text("domain", default=None))
        for number, image in zip(captions, images, strict=True)
        if number not in bare | others
    ]


def _of_textcaps(rows: list[Entry]) -> list[Listed]:
    """TextCaps has one row per caption. Its images come from OpenImages, whose ids are words."""
    names: dict[int, Name] = {}
    captions: dict[int, list[list[str]]] = defaultdict(list)
    for row in rows:
        names.setdefault(number := row.image_id(), row.name("image_id"))
        captions[number].append(row.texts("caption_str", default=[]))
    return [Listed(name, f"{name}.jpg", _joined(captions[number])) for number, name in names.items()]


def _of_list(content: list[Any], path: Path, splits: Sequence[str], columns: Columns | None) -> list[Listed]:
    """LAVIS' list: an image may have several rows (training) or one row with several captions (evaluation)."""
    rows = _named_usually(listed_entries(content, path), columns)
    if not any("caption" in row and "image" in row for row in rows) and (what := what_it_is(content)):
        raise DataError(f"{path}: no captions of images: it holds {what}")
    return _of_rows(of_splits(rows, splits), path, caption_needed="test" not in splits)


def _of_table(path: Path, splits: Sequence[str], columns: Columns | None) -> list[Listed]:
    """JSON lines, CSV or TSV with image and caption, or Hugging Face's file_name and text. An image may have several
    rows. Images without an image_id are numbered."""
    rows = read_table(path, (columns or {}).values()) if path.suffix in SEPARATORS else read_lines(path)
    rows = _named_usually(rows, columns)
    if rows and "image" not in rows[0] and (what := what_it_is([rows[0].values])):
        raise DataError(f"{path} is not read: it holds {what}")
    return _of_rows(of_splits(rows, splits), path, caption_needed="test" not in splits, numbered=True)


def _named_usually(rows: list[Entry], columns: Columns | None) -> list[Entry]:
    """Rename the given columns to image and caption. Raises DataError for a row that lacks one of them."""
    if not columns:
        return rows
    made = []
    for row in rows:
        if absent := [name for name in columns.values() if name not in row]:
            raise row.error(f"has no {absent[0]!r}, which data.columns names: it has {', '.join(map(str, row.values))}")
        others = {key: value for key, value in row.values.items() if key not in {*columns, *columns.values()}}
        made.append(Entry(others | {key: row.values[name] for key, name in columns.items()}, row.path, row.place))
    return made


def _of_token(path: Path) -> list[Listed]:
    """Flickr30k's lines: a file and a number, such as "1000092795.jpg#0", a tab and the caption."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            check_no_nulls([line], path, number)
            name, tab, caption = line.rstrip("\r").partition("\t")
            image, mark, _ = name.rpartition("#")
            row = Entry({"image": image, "caption": caption}, path, ("line", number))
            if not tab or not mark:
                raise row.error(f"needs FILE#NUMBER, a tab and a caption, and is {line[:60]!r}")
            rows.append(row)
    return _of_rows(rows, path, caption_needed=True)


def _other_names(row: Entry) -> str:
    """That a row lacks an image or a caption, and how to name the columns: a file's name shows which holds images."""
    names = sorted(map(str, row.values))
    kinds = {name: guess_type(str(row.values[name]))[0] or "" for name in names}
    image = next((name for name in names if kinds[name].startswith("image/")), "NAME")
    caption = next(name for name in names if name != image) if len(names) == 2 and image in names else "NAME"
    return (
        f"needs image and caption, and has {', '.join(names)}: call them image and caption, or with "
        f"lit_blip2.data.own.OwnData give --data.columns='{{image: {image}, caption: {caption}}}'"
    )


def _of_rows(rows: list[Entry], path: Path, caption_needed: bool, numbered: bool = False) -> list[Listed]:
    """Group rows by image. Columns such as caption_2 or caption2 hold further captions. numbered: an image without an
    id is numbered by its place; otherwise its file name gives the id.

    Raises DataError for an image with two ids, and for an id of two images.
    """
    captions: dict[str, list[list[str]]] = defaultdict(list)  # those of each row
    given: dict[str, Name] = {}
    spelt: dict[str, str] = {}  # x/1.jpg -> the first row's spelling, such as ./x/1.jpg
    for row in rows:
        image, text = ("image", "caption") if "image" in row else ("file_name", "text" if "text" in row else "caption")
        more = [key for key in row.values if row.values[key] and _is_further(key, text)]
        if image not in row or (caption_needed and text not in row and not more):
            raise row.error(_other_names(row))
        if {"label", "relation"} <= row.values.keys():
            raise row.error("VSR's captions, true or false of their images as label says: write those of label 1 alone")
        _check_one(row, image, text)
        file, name = spelt.setdefault(normpath(row.file(image)), row.file(image)), _given_name(row)
        told = row.texts(text, *([] if caption_needed and not more else [[]]))
        captions[file].append([*told, *(each for key in more for each in row.texts(key))])
        if name is not None and image_number(given.setdefault(file, name)) != image_number(name):
            raise row.error(f"{file} has image id {name}, and {given[file]} in a row before")
    named = lambda file, place: place if numbered else last_digits(Path(file).stem)  # noqa: E731
    names = [given.get(file, named(file, place)) for place, file in enumerate(captions)]
    file_of: dict[int, str] = {}
    for file, name in zip(captions, names, strict=True):
        if file_of.setdefault(image_number(name), file) != file:
            raise DataError(
                f"{path}: image id {name} stands for both {file_of[image_number(name)]} and {file}: of a word the"
                " digits at its end count; write image_id, a whole number that no other image has"
            )
    return [Listed(name, file, _joined(texts)) for name, (file, texts) in zip(names, captions.items(), strict=True)]


def _is_further(key: str, text: str) -> bool:
    return key.startswith(text) and key[len(text) :].lstrip("_").isdecimal()


def _check_one(row: Entry, image: str, text: str) -> None:
    """Raises DataError for a row with two different files or, in Hugging Face's layout, two different captions. One
    file may be named both with and without its folder."""
    values, end = row.values, lambda key: f"/{normpath(str(row.values[key]))}"
    if image == "image" and values["image"] and values.get("file_name"):
        one, two = end("image"), end("file_name")
        if not one.endswith(two) and not two.endswith(one):
            raise row.error(
                f"image is {values['image']!r} and file_name {values['file_name']!r}: leave one of them out"
            )
    if text == "text" and values["text"] and values.get("caption") and values["text"] != values["caption"]:
        raise row.error("text and caption both hold a caption, and not the same one: leave one of them out")


def _joined(rows: list[list[str]]) -> list[str]:
    """All captions of an image. If any row has a caption, a row without one counts as an empty caption."""
    return [text for row in rows for text in row or [""]] if any(rows) else []


def _given_name(row: Entry) -> Name | None:
    """The image_id or img_id of a row, None if it has neither. Cells of a table are untyped, so "42" there is 42."""
    for key in ("image_id", "img_id"):
        if row.values.get(key) not in (None, ""):
            row.image_id(key)  # raises for a number out of range
            name = row.name(key)
            typed = isinstance(name, int) or (name.isdecimal() and Path(row.path).suffix not in SEPARATORS)
            return name if typed else last_digits(name)
    return None
