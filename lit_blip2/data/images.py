"""From a file, or from bytes, to an 8-bit RGB image, or to the reason why not.

What Pillow can read is converted: turned as EXIF says, palettes and CMYK to RGB, 16 bits to 8, an alpha channel
dropped, of an animation the first frame.
"""

from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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
            image.load()  # before the stream is closed
            with suppress(Exception):  # of a damaged EXIF block, which says nothing about the pixels
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "F":
                raise UnreadableImageError(name, "pixels are fractions", "of which nobody says what is white")
            return to_rgb(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "no image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(name, "too large", error) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise UnreadableImageError(name, "truncated" if "truncated" in str(error) else "damaged", error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image of any mode but F as 8-bit RGB."""
    if image.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip at 255 instead of scaling
        grey = np.asarray(image).astype(np.float64).clip(0, 65535) / 257
        image = Image.fromarray(grey.round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies even what is RGB
