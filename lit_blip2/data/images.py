"""Decodes files and bytes into 8-bit RGB images, or says why it cannot.

An image is rotated as its EXIF tag says. Palettes and CMYK become RGB, 12 and 16 bits become 8, and an animation gives
its first frame. Transparent pixels are laid over white, as on a page; an alpha channel of one value is dropped. A JPEG
or PNG must hold its end marker.

The format is found from the contents, not from the file's name. Only formats that Pillow decodes itself are opened. It
would hand others to another program (Ghostscript runs EPS, which is PostScript) or to a library that somebody else has
registered, or would open what lies within them as any format (IPTC).
"""

import math
import re
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from lit_blip2.contents import COPY_AGAIN, POINTER, DataError, check_regular

SIXTEEN = re.compile(r"(?<!BGR);16")  # Pillow's 16-bit raw modes; BGR;16 has 5 or 6 bits per colour
# Tags of a TIFF. PHOTOMETRIC is 0 if the lowest value is white; FORMAT is 2 if values are signed.
BITS, PHOTOMETRIC, MAX_VALUE, FORMAT = 258, 262, 281, 339
HEIC = {b"ftyp" + kind for kind in (b"heic", b"heix", b"hevc", b"mif1")}  # bytes 4 to 11 of a phone's photo
SIGNED = {8: 127, 16: 32767}  # bits -> white of signed values
# Pillow's names of pictures that it decodes within this process.
FORMATS = {
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO", "IM", "IMT",
    "JPEG", "JPEG2000", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN",
    "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
}  # fmt: skip
NARROW = 16  # an image must span 1 / NARROW of all 16-bit values
JPEG_END, PNG_END = b"\xff\xd9", b"IEND"
MOST_PIXELS = 89_478_485  # Pillow's own limit for what may be a decompression bomb: 256 MiB as RGB


class UnreadableImageError(OSError):
    """An image that is there but cannot be decoded. The message names it; `reason` is one of a few words."""

    def __init__(self, name: str | Path, reason: str, details: object = ""):
        super().__init__(f"cannot read image {name}: {reason}" + (f" ({details})" if str(details) else ""))
        self.reason, self.details = reason, str(details)


def load_image(path: str | Path) -> Image.Image:
    """Decode a file. Raises FileNotFoundError, or UnreadableImageError; both name the file."""
    return decode_image(read_file(path), path)


def as_rgb(image: Image.Image | str | Path) -> Image.Image:
    """Convert a PIL image of any mode, or an image file, to 8-bit RGB, rotated as its EXIF tag says.

    Raises FileNotFoundError, UnreadableImageError, and TypeError for anything else.
    """
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise UnreadableImageError(image, "a folder", "give the path of an image in it, or a list of them")
        if not Path(image).is_file():
            raise FileNotFoundError(f"no image file {str(image)!r}")
        return load_image(image)
    if not isinstance(image, Image.Image):
        way_out = ": PIL.Image.fromarray makes an image of an array of uint8" if hasattr(image, "shape") else ""
        raise TypeError(f"an image is one of PIL's or the path of a file, not a {type(image).__name__}{way_out}")
    name = getattr(image, "filename", "") or f"(a PIL image, {image.mode}, {image.width} x {image.height})"
    try:
        image.load()  # Pillow may only have opened the file
    except Exception as error:
        raise UnreadableImageError(name, "damaged", error) from error
    with suppress(Exception):  # of a damaged EXIF block, which says nothing about the pixels
        image = ImageOps.exif_transpose(image)
    return to_rgb(image, name)


def read_file(path: str | Path) -> bytes:
    """A file's contents. Raises FileNotFoundError, or UnreadableImageError if it is no regular file or cannot be
    opened."""
    try:
        check_regular(path)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except DataError as error:
        raise UnreadableImageError(path, "no regular file", error) from error
    except OSError as error:
        raise UnreadableImageError(path, "cannot be opened", error) from error


def open_image(data: bytes) -> Image.Image:
    """Open a file's contents as a PIL image, not decoded yet. Raises Pillow's errors, UnidentifiedImageError for a
    format that is not in FORMATS."""
    return Image.open(BytesIO(data), formats=_opened_formats())


@cache
def _opened_formats() -> tuple[str, ...]:
    """The FORMATS that this Pillow has, in the order in which it tries them."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name in FORMATS)


def _other_format(data: bytes) -> str:
    """The name of a format that is not opened, if the first bytes tell it; else an empty string."""
    if data[4:12] in HEIC:
        return "HEIC"
    others = (name for name in Image.ID if name not in FORMATS)
    accepting = ((name, Image.OPEN[name][1]) for name in others)
    return next((name for name, accepts in accepting if accepts is not None and accepts(data[:16]) is True), "")


def decode_image(data: bytes, name: str | Path) -> Image.Image:
    """Decode the contents of a file. Raises UnreadableImageError: empty, not an image, a format that is not
    opened, too large, truncated or damaged."""
    if not data:
        raise UnreadableImageError(name, "empty")
    if data.startswith(POINTER):
        raise UnreadableImageError(name, "a pointer of Git LFS", "get the file itself with git lfs pull")
    try:
        with open_image(data) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height} pixels, at most {MOST_PIXELS:,} are read"
                raise UnreadableImageError(name, "too large", size)
            if _has_no_end(image, data):
                raise UnreadableImageError(name, "truncated", f"no mark of its end: {COPY_AGAIN}")
            raw, white_is_zero = str(image.tile), getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
            white, told = _white(image, data)
            image.load()  # before the stream is closed
            if image.format == "PPM" and image.mode == "RGB" and (colours := _deep_ppm(data)) is not None:
                _white_of(colours, name, white, told)
            with suppress(Exception):  # of a damaged EXIF block, which says nothing about the pixels
                ImageOps.exif_transpose(image, in_place=True)
            if white == SIGNED[8]:  # Pillow takes them for unsigned bytes
                image = Image.fromarray(np.asarray(image).view(np.int8).astype(np.int32))
            if SIXTEEN.search(raw) and not image.mode.startswith("I"):
                image.info.pop("transparency", None)  # a 16-bit value, which Pillow compares with 8
                image = _from_sixteen(image, data, name, told)
            rgb = to_rgb(image, name, white, told)
            # Pillow itself inverts values of 8 bits
            return ImageOps.invert(rgb) if white_is_zero and image.mode.startswith("I") else rgb
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        if other := _other_format(data):
            raise UnreadableImageError(name, "format not opened", f"{other}: save it as PNG or JPEG") from error
        raise UnreadableImageError(name, "not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(name, "too large", error) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise UnreadableImageError(name, "truncated" if "truncated" in str(error) else "damaged", error) from error


def _has_no_end(image: Image.Image, data: bytes) -> bool:
    """Whether a JPEG or PNG lacks the end marker after its pixels. An interrupted copy may be filled up with zeros,
    which decode as pixels. Anything may follow the marker. A thumbnail's own marker comes before the pixels."""
    if image.format in ("JPEG", "MPO") and not data.endswith(JPEG_END):
        pixels = JpegImageFile(BytesIO(data)).fp.tell()  # the end of the headers
        return data.rfind(JPEG_END, pixels) < 0
    return image.format == "PNG" and data.rfind(PNG_END) < 0


def to_rgb(image: Image.Image, name: str | Path = "given", white: int = 65535, told: int = 0) -> Image.Image:
    """Convert a decoded image of any mode to 8-bit RGB.

    Args: name: its name in errors. white, told: for values above 8 bits, see `_white`.
    Raises UnreadableImageError if the white of its values is not known.
    """
    if image.mode == "F":
        raise UnreadableImageError(name, "pixels are fractions", "nothing says which is white: scale them to 8 bits")
    if image.mode.startswith("I"):  # convert("RGB") would clip at 255 instead of scaling
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(_scaled(values, _white_of(values, name, white, told)))
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)  # Pillow converts these modes to no other
    image = image.convert(plain) if plain else image
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if not _is_one_value(rgba.getchannel("A")):  # one value says nothing: some writers leave it at 0
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies even an RGB image


def _is_one_value(band: Image.Image) -> bool:
    low, high = band.getextrema()
    return low == high


def _white(image: Image.Image, data: bytes) -> tuple[int, int]:
    """(white, told): the white of the file's type of values, and a lower one that the file itself tells, or 0.

    A PNG tells it in sBIT, unless that is all 16 bits. A TIFF tells it in MaxSampleValue, but only by a power of 2
    minus 1: another number is merely the largest value found in the image.
    """
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(BITS, (16,))[0], tags.get(FORMAT, (1,))[0] == 2
    white = SIGNED.get(bits, 65535) if signed else 4095 if bits == 12 else 65535
    if image.format == "PNG" and (sbit := re.search(rb"\0\0\0[\1-\4]sBIT(.)", data[: data.find(b"IDAT")], re.S)):
        return white, (1 << sbit[1][0]) - 1 if sbit[1][0] < 16 else 0
    most = tags.get(MAX_VALUE, 0)
    most = max(most) if isinstance(most, tuple) else most
    return white, most if most >= 255 and not most & (most + 1) else 0


def _from_sixteen(image: Image.Image, data: bytes, name: str | Path, told: int) -> Image.Image:
    """An image of 16-bit colours, of which Pillow has kept the upper 8. A dark image is made again from all 16 bits.
    Colours hidden by alpha do not count, nor do a few bright ones, except in CMYK, where 0 is white."""
    alpha = image.getchannel("A") if image.getbands()[-1] == "A" else None
    bands = 1 if "LA;16" in str(_tiles(data)) else min(3, len(image.getbands()))
    high = np.atleast_3d(np.asarray(image))[..., :bands].astype(np.int64)
    bright, inks = high >= 1 << 6, image.mode == "CMYK"
    may_be_narrow = _is_narrow(256 * high, 65535 + 256)  # for any lower 8 bits
    if bright.any() and (inks or not (_are_few(bright) or may_be_narrow)):
        return image
    try:
        values = 256 * high + _lower_bytes(data)[..., :bands]
    except (OSError, ValueError, KeyError, IndexError) as error:
        if _largest(high, 255) >= 1 << 6:
            return image
        found = "16 bits, of which the upper 8 are dark, and Pillow cannot read the lower 8: save it with 8 bits"
        raise UnreadableImageError(name, "unknown value range", found) from error
    if alpha is not None and not _is_one_value(alpha):
        values[np.asarray(alpha) == 0] = 0
    white = _white_of(values, name, 65535, 0 if inks else told) if values.any() else 65535
    if not values.any() or (bright.any() and white == 65535):
        return image
    scaled = _scaled(values, white)
    made = Image.fromarray(scaled[..., 0] if bands == 1 else scaled)
    if alpha is not None:
        made.putalpha(alpha)
    return made


def _deep_ppm(data: bytes) -> np.ndarray | None:
    """The colours [H, W, 3] of a PPM file that names 65535 as its largest value: Pillow keeps 8 bits of them. None for
    another file, whose largest value is its white."""
    with open_image(data) as image:
        tile, shape = image.tile[0], (image.height, image.width, 3)
    if tile.args != ("RGB", 65535):
        return None
    count = math.prod(shape)
    if tile.codec_name == "ppm":
        return np.frombuffer(data, ">u2", count, tile.offset).reshape(shape).astype(np.int64)
    words = re.sub(rb"#[^\r\n]*", b" ", data[tile.offset :]).split()[:count]
    return np.array(list(map(int, words)), np.int64).reshape(shape)


def _tiles(data: bytes) -> list:
    with open_image(data) as image:
        return image.tile


def _lower_bytes(data: bytes) -> np.ndarray:
    """The lower 8 of 16 bits [H, W, channels], decoded as if the two bytes of each value were swapped.

    The four bytes of grey and alpha are read as four channels. Raises Pillow's errors for modes that it lacks.
    """
    with open_image(data) as image:
        tiles = []
        for tile in image.tile:
            mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            other = "RGBA" if mode == "LA;16B" else mode[:-1] + {"B": "L", "L": "B", "N": "B"}[mode[-1]]
            tiles.append(tile._replace(args=(other, *rest) if isinstance(tile.args, tuple) else other))
        image.tile = tiles
        image.load()
        with suppress(Exception):  # rotated like the upper bits
            ImageOps.exif_transpose(image, in_place=True)
        lower = np.atleast_3d(np.asarray(image))
        return lower[..., 1:2] if other == "RGBA" else lower


def _white_of(values: np.ndarray, name: str | Path, white: int, told: int) -> int:
    """The white of whole numbers: `white`, or `told`, a lower one that the file tells.

    `told` does not apply to shifted values, whose last bits are empty. Raises UnreadableImageError for values below 0
    or above white, and for two kinds of 16-bit values. Dark ones use less than a quarter of the range, but for a few
    pixels, as cameras and scanners write 10, 12 or 14 bits: the image would come out dark or black. Narrow ones lie in
    a small band anywhere, as medical and thermal scanners write them: the image would come out as one grey. Both kinds
    are accepted if the file tells this white, or if they are 8-bit values, doubled (257 x) or shifted (256 x).
    """
    low, high, most = values.min(), values.max(), _largest(values, white)
    body = values if most == high else values[values <= most]
    known = told == white or (white == 65535 and (not (values % 257).any() or not (body % 256).any()))
    if low >= 0 and most <= told < white >= high and (body & (white // (told + 1))).any():
        return told
    outside, dark = low < 0 or high > white, 0 < most < (white + 1) // 4
    narrow = not outside and not dark and _is_narrow(values, white)
    if outside or (white > 4095 and (dark or narrow) and not known):
        apart = f", but for few up to {high}" if most < high <= white else ""
        found = f"values from {low} to {most if apart else high}{apart}, where {white} would be white"
        found += f": a range of {high - low}, at least {(white + 1) // NARROW} is read" if narrow else ""
        raise UnreadableImageError(name, "unknown value range", f"{found}: scale them to 8 bits")
    return white


def _is_narrow(values: np.ndarray, white: int) -> bool:
    """Whether values span less than 1 / NARROW of the range, but at least 256: fewer are as good as one value."""
    return 256 <= values.max() - values.min() < (white + 1) // NARROW


def _largest(values: np.ndarray, white: int) -> int:
    """The largest value, without a few bright ones apart: saturated or dead pixels, or marks drawn over the image.

    They lie apart if there is a power of 2, up to a quarter of white, such that less than a tenth as many values lie
    between it and the next power. A lamp in the dark is not apart: its edges fade. Marks on pure black are the image.
    """
    bits, above = int(white).bit_length(), 0
    for bit in reversed(range(bits)):
        if not _are_few(bright := values >= 1 << bit):
            break
        count = np.count_nonzero(bright)
        if bit <= bits - 2 and above > 10 * (count - above):
            below = values[values < 1 << bit]
            if np.count_nonzero(below) > above:
                return below.max()
        above = count
    return values.max()


def _are_few(bright: np.ndarray) -> bool:
    return 20 * np.count_nonzero(bright) <= bright.size


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    """Scale whole numbers from 0 to white to uint8; larger ones become white."""
    return (values.clip(max=white) * 255 / white).round().astype(np.uint8)
