"""Which files of a folder are pictures, by the endings of their names."""

from functools import cache
from pathlib import Path

from PIL import Image

from lit_blip2.contents import DataError
from lit_blip2.data.images import FORMATS

UNOPENED = {".heic", ".heif", ".hif", ".eps", ".wmf"}  # listed, so that they are reported as unreadable


def pictures_in(folder: str | Path) -> list[str]:
    """The sorted paths of the images below a folder, relative to it, without hidden ones. Raises DataError if there
    is none."""
    folder = Path(folder)
    files = (file.relative_to(folder) for file in folder.rglob("*") if ends_as_picture(file.name) and file.is_file())
    found = sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))
    if not found:
        raise DataError(f"{folder} holds no pictures: no name in it ends like one, such as .jpg or .PNG")
    return found


def ends_as_picture(name: str) -> bool:
    """Whether a file name ends in an image suffix, in upper or lower case."""
    return Path(name.strip()).suffix.lower() in _endings()


@cache
def _endings() -> set[str]:
    known = Image.registered_extensions()
    return {ending for ending, kind in known.items() if kind in FORMATS} | UNOPENED
