"""From a file, or from bytes, to an 8-bit RGB image, or to the reason why not.

What Pillow can read is converted: turned as EXIF says, palettes and CMYK to RGB, 12 and 16 bits to 8, of an
animation the first frame. What is transparent lies over white, as a page shows it; an alpha of one value is dropped.
A JPEG or PNG must hold the mark of its end.

A file's name says nothing about its format: Pillow goes by the contents. Only formats that it decodes itself are
opened. It hands others to another program (EPS is a program in PostScript, which Ghostscript runs) or to a library that
somebody else has registered, or opens whatever lies within them as any format (IPTC).
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

SIXTEEN = re.compile(r"(?<!BGR);16")  # in Pillow's names of raw modes; BGR;16 has 5 or 6 bits of a colour
# Tags of a TIFF. PHOTOMETRIC is 0 where its lowest value is white; FORMAT is 2 where values have a sign.
BITS, PHOTOMETRIC, MAX_VALUE, FORMAT = 258, 262, 281, 339
HEIC = {b"ftyp" + kind for kind in (b"heic", b"heix", b"hevc", b"mif1")}  # bytes 4 to 11 of a file of a phone's camera
SIGNED = {8: 127, 16: 32767}  # bits -> the white of values with a sign
# Pillow's names of pictures that it decodes within this process.
FORMATS = {
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO", "IM", "IMT",
    "JPEG", "JPEG2000", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN",
    "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
}  # fmt: skip
NARROW = 16  # the part of all 16-bit values that an image must span
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
    """An image of Pillow's, of any mode, or the file of one as 8-bit RGB, turned as its EXIF says.

    Raises FileNotFoundError, UnreadableImageError, and TypeError for what is neither of the two.
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
        image.load()  # of a file that Pillow has only opened
    except Exception as error:
        raise UnreadableImageError(name, "damaged", error) from error
    with suppress(Exception):  # of a damaged EXIF block, which says nothing about the pixels
        image = ImageOps.exif_transpose(image)
    return to_rgb(image, name)


def read_file(path: str | Path) -> bytes:
    """A file's contents. Raises FileNotFoundError, or UnreadableImageError for what is no file or may not be read."""
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
    """Pillow's image of a file's contents, not decoded yet. Raises what Pillow does, UnidentifiedImageError for a
    format that is not among FORMATS."""
    return Image.open(BytesIO(data), formats=_opened_formats())


@cache
def _opened_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow has, in the order in which it tries them."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name in FORMATS)


def _other_format(data: bytes) -> str:
    """The name of a format that is known by its first bytes and that is not opened; else an empty string."""
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
            if white == SIGNED[8]:  # which Pillow takes for bytes without a sign
                image = Image.fromarray(np.asarray(image).view(np.int8).astype(np.int32))
            if SIXTEEN.search(raw) and not image.mode.startswith("I"):
                image.info.pop("transparency", None)  # of 16 bits, which Pillow compares with 8
                image = _from_sixteen(image, data, name, told)
            rgb = to_rgb(image, name, white, told)
            # Pillow turns such values of 8 bits itself
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
    """Whether a JPEG or PNG lacks the mark behind its pixels. A copy that broke off may be filled up with zeros, which
    decode as pixels. What follows the mark is anybody's; a thumbnail's own mark lies before the pixels."""
    if image.format in ("JPEG", "MPO") and not data.endswith(JPEG_END):
        pixels = JpegImageFile(BytesIO(data)).fp.tell()  # to where it has read
        return data.rfind(JPEG_END, pixels) < 0
    return image.format == "PNG" and data.rfind(PNG_END) < 0


def to_rgb(image: Image.Image, name: str | Path = "given", white: int = 65535, told: int = 0) -> Image.Image:
    """A decoded image of any mode as 8-bit RGB.

    Args: name: to name it in errors. white, told: of values above 8 bits, see `_white`.
    Raises UnreadableImageError for values of which nobody says what is white.
    """
    if image.mode == "F":
        raise UnreadableImageError(name, "pixels are fractions", "nothing says which is white: scale them to 8 bits")
    if image.mode.startswith("I"):  # convert("RGB") would clip at 255 instead of scaling
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(_scaled(values, _white_of(values, name, white, told)))
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)  # from which Pillow alone goes on
    image = image.convert(plain) if plain else image
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if not _is_one_value(rgba.getchannel("A")):  # else it says nothing: some writers leave all of it 0
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies even what is RGB


def _is_one_value(band: Image.Image) -> bool:
    low, high = band.getextrema()
    return low == high


def _white(image: Image.Image, data: bytes) -> tuple[int, int]:
    """The white of a file's kind of values, and the lower one that the file itself tells, or 0.

    A PNG tells it in sBIT, where all 16 bits say no more than the file's kind; a TIFF in MaxSampleValue, which counts
    as a limit where it is a power of 2 less 1: else it is the largest value that was found.
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
    """Colours of 16 bits, of which Pillow has kept the upper 8: where they are dark, from all 16. Colours that alpha
    hides do not count, nor do few bright ones, but for CMYK's, where 0 is white."""
    alpha = image.getchannel("A") if image.getbands()[-1] == "A" else None
    bands = 1 if "LA;16" in str(_tiles(data)) else min(3, len(image.getbands()))
    high = np.atleast_3d(np.asarray(image))[..., :bands].astype(np.int64)
    bright, inks = high >= 1 << 6, image.mode == "CMYK"
    may_be_narrow = _is_narrow(256 * high, 65535 + 256)  # whatever the lower 8 are
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
    """The colours [H, W, 3] of a PPM file that names 65535 as its largest value, of which Pillow keeps 8 bits; None for
    another one, whose largest value says what is white."""
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
    """The lower 8 of 16 bits [H, W, channels], read as if each value's two bytes lay the other way round.

    Of grey and alpha the four bytes are read as four channels. Raises what Pillow does for modes that it lacks.
    """
    with open_image(data) as image:
        tiles = []
        for tile in image.tile:
            mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            other = "RGBA" if mode == "LA;16B" else mode[:-1] + {"B": "L", "L": "B", "N": "B"}[mode[-1]]
            tiles.append(tile._replace(args=(other, *rest) if isinstance(tile.args, tuple) else other))
        image.tile = tiles
        image.load()
        with suppress(Exception):  # as it was turned before
            ImageOps.exif_transpose(image, in_place=True)
        lower = np.atleast_3d(np.asarray(image))
        return lower[..., 1:2] if other == "RGBA" else lower


def _white_of(values: np.ndarray, name: str | Path, white: int, told: int) -> int:
    """The white of whole numbers: `white`, or `told`, a lower one that the file tells.

    Shifted values, whose last bits are empty, do not go by `told`. Raises UnreadableImageError for values that do not
    lie from black to white, and for 16 bits of which no more than a quarter is used but for few pixels, as cameras and
    scanners write 10, 12 or 14 bits: they would come out dark, or black; or that lie in a narrow band anywhere, as
    scanners of bodies and of heat write them: they would come out as one grey. Such an image is taken where the file
    tells this white, or where its values are those of 8 bits: doubled (257 x), or shifted (256 x).
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
    """Whether values lie in less than a 16th of all, and are not as good as one value."""
    return 256 <= values.max() - values.min() < (white + 1) // NARROW


def _largest(values: np.ndarray, white: int) -> int:
    """The largest value but for few bright ones apart: saturated or dead pixels, or what was drawn over the image.

    They lie apart where hardly any value, 1 to 10 of them, lies from some power of 2, of up to a quarter of white, to
    the next: a lamp in the dark has edges that fade. What is drawn on black alone is the image itself.
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
    """Whole numbers from 0 to white as uint8; what lies above is white."""
    return (values.clip(max=white) * 255 / white).round().astype(np.uint8)
