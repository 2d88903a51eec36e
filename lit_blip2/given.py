"""One image or many, one text or many: what a method is given, as lists of equal length, and its results as given."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL.Image import Image

Picture = Image | str | Path
Result = TypeVar("Result")


def paired(images: Any, texts: Any) -> tuple[list, list, bool]:
    """Images and their texts, as many of one as of the other, and whether one of each was given. Raises ValueError for
    lists of different lengths."""
    (images, one_image), (texts, one_text) = listed(images), listed(texts)
    if one_image:
        images *= len(texts)
    elif one_text:
        texts *= len(images)
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts: give one of either, or as many of both")
    return images, texts, one_image and one_text


def listed(given: Any) -> tuple[list, bool]:
    """A list of what is given, and whether that was one image or one text."""
    one = not isinstance(given, list | tuple)
    return ([given] if one else list(given)), one


def rows_of_once(images: Sequence[Picture]) -> tuple[list[Picture], list[int]]:
    """Images without those that come again, and the place among them of each image given."""
    once = {id(each): each for each in images}
    places = {key: place for place, key in enumerate(once)}
    return list(once.values()), [places[id(each)] for each in images]


def joined(batches: Iterable[Sequence[Result]]) -> list[Result]:
    """The results of batches, one after the other."""
    return [each for batch in batches for each in batch]


def as_given(results: list[Result], one: bool) -> Result | list[Result]:
    """The one result where one image and one text were given, else all."""
    return results[0] if one else results
