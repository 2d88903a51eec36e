"""From a file, or from bytes, to an 8-bit RGB image, or to the reason why not.

What Pillow can read is converted: turned as EXIF says, palettes and CMYK to RGB, 12 and 16 bits to 8, what is
transparent over white, of an animation the first frame.
"""

import re
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SIXTEEN = re.compile(r"(?<!BGR);16")  # in Pillow's names of raw modes; BGR;16 has 5 or 6 bits of a colour
PHOTOMETRIC = 262  # a TIFF's tag: 0 where its lowest value is white
MOST_PIXELS = 89_478_485  # Pillow's own limit for what may be a decompression bomb: 256 MiB as RGB


class UnreadableImageError(OSError):
    """An image that is there but cannot be decoded. The message names it; `reason` is one of a few words."""

    def __init__(self, name: str | Path, reason: str, details: object = ""):
        super().__init__(f"cannot read image {name}: {reason}" + (f" ({details})" if str(details) else ""))
        self.reason = reason


def load_image(path: str | Path) -> Image.Image:
    """Decode a file. Raises FileNotFoundError, or UnreadableImageError; both name the file."""
    return decode_image(read_file(path), path)


def read_file(path: str | Path) -> bytes:
    """A file's contents. Raises FileNotFoundError, or UnreadableImageError for what is no file or may not be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableImageError(path, "cannot be opened", error) from error


def decode_image(data: bytes, name: str | Path) -> Image.Image:
    """Decode the contents of a file. Raises UnreadableImageError: empty, no image, too large, truncated or damaged."""
    if not data:
        raise UnreadableImageError(name, "empty")
    try:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height} pixels, at most {MOST_PIXELS:,} are read"
                raise UnreadableImageError(name, "too large", size)
            raw, white_is_zero = str(image.tile), getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
            image.load()  # before the stream is closed
            with suppress(Exception):  # of a damaged EXIF block, which says nothing about the pixels
                ImageOps.exif_transpose(image, in_place=True)
            rgb = to_rgb(image, name, raw)
            # Pillow turns such values of 8 bits itself
            return ImageOps.invert(rgb) if white_is_zero and image.mode.startswith("I") else rgb
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "no image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(name, "too large", error) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise UnreadableImageError(name, "truncated" if "truncated" in str(error) else "damaged", error) from error


def to_rgb(image: Image.Image, name: str | Path = "given", raw: str = "") -> Image.Image:
    """A decoded image of any mode as 8-bit RGB.

    Args: name: to name it in errors. raw: how Pillow says that its file holds the values.
    Raises UnreadableImageError for values of which nobody says what is white.
    """
    if image.mode == "F":
        raise UnreadableImageError(name, "pixels are fractions", "of which nobody says what is white")
    if image.mode.startswith("I"):  # convert("RGB") would clip at 255 instead of scaling
        values = np.asarray(image).astype(np.int64)
        white = 4095 if ";12" in raw else 65535
        _check_bright(name, values.min(), values.max(), white)
        image = Image.fromarray((values * 255 / white).round().astype(np.uint8))
    elif SIXTEEN.search(raw):  # Pillow has left the lower 8 away
        bands = np.asarray(image.getextrema()).reshape(-1, 2)[: 1 if image.mode.startswith("L") else 3]
        _check_bright(name, 0, 257 * bands.max(), 65535)
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies even what is RGB


def _check_bright(name: str | Path, low: int, high: int, white: int) -> None:
    """Raises UnreadableImageError for values that do not lie from black to white, and for 16 bits of which only 14 or
    fewer are used, as cameras and scanners write 10, 12 or 14 bits: they would come out dark, or black."""
    if low < 0 or high > white or (white == 65535 and 0 < high < 1 << 14):
        found = f"values from {low} to {high}, where {white} would be white: scale them to 8 bits"
        raise UnreadableImageError(name, "unknown value range", found)
