"""Pairs one or many images with one or many texts, for the methods of Loaded."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL.Image import Image

Picture = Image | str | Path
Result = TypeVar("Result")


def paired(images: Any, texts: Any) -> tuple[list, list, bool]:
    """Two lists of equal length, and whether the caller gave one image and one text instead of lists.

    One image is repeated for every text, and one text for every image. Raises ValueError for lists of different
    lengths.
    """
    (images, one_image), (texts, one_text) = listed(images), listed(texts)
    if one_image:
        images *= len(texts)
    elif one_text:
        texts *= len(images)
    if len(images) != len(texts):
        raise ValueError(
            f"{len(images)} images and {len(texts)} texts: give as many of both, or one alone, not in a list"
        )
    return images, texts, one_image and one_text


def listed(given: Any) -> tuple[list, bool]:
    """`given` as a list, and whether it was a single image or text instead of a list."""
    one = not isinstance(given, list | tuple)
    return ([given] if one else list(given)), one


def rows_of_once(images: Sequence[Picture]) -> tuple[list[Picture], list[int]]:
    """The distinct images (by identity), and the index among them of each image given."""
    once = {id(each): each for each in images}
    places = {key: place for place, key in enumerate(once)}
    return list(once.values()), [places[id(each)] for each in images]


def joined(batches: Iterable[Sequence[Result]]) -> list[Result]:
    """The results of all batches as one list."""
    return [each for batch in batches for each in batch]


def as_given(results: list[Result], one: bool) -> Result | list[Result]:
    """The result itself if `one`, else the list of results."""
    return results[0] if one else results
