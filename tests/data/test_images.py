"""Every kind of image becomes 8-bit RGB, or an error with the reason."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lit_blip2.data.images import FORMATS, UnreadableImageError, decode_image, load_image
from lit_blip2.data.shards.packing import ending_of


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("LA", "png"), ("P", "png"), ("RGB", "png"), ("RGBA", "png"), ("CMYK", "tif"), ("YCbCr", "tif")],
)
def test_every_mode_becomes_rgb(tmp_path, mode, suffix):
    Image.new("L", (6, 4), 200).convert("RGB").convert(mode).save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as written:
        assert written.mode == mode
    image = load_image(tmp_path / f"x.{suffix}")
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(image).astype(int) - 200).max() <= 4  # palettes and YCbCr round


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I")])
def test_sixteen_bits_are_scaled(tmp_path, dtype, mode):
    Image.fromarray(np.array([[0, 100 * 257, 65535]], dtype=dtype)).save(tmp_path / "deep.tif")
    with Image.open(tmp_path / "deep.tif") as written:
        assert written.mode == mode
    assert np.asarray(load_image(tmp_path / "deep.tif"))[0, :, 0].tolist() == [0, 100, 255]


def test_exif_turns_the_image(tmp_path):
    image, exif = Image.new("RGB", (6, 4)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (4, 6)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "x.gif").getpixel((0, 0)) == (255, 0, 0)


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size."""
    parts = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(99)))
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 9_000), (60_000, 60_000)])
def test_a_giant_is_not_decoded(size):
    with pytest.raises(UnreadableImageError, match="too large") as error:
        decode_image(png_of(*size), "x.png")
    assert error.value.reason == "too large"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"words", "not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (png_of(9, 9), "truncated"),
    ],
)
def test_what_is_no_image_says_why(data, reason):
    with pytest.raises(UnreadableImageError, match="cannot read image x.png: " + reason) as error:
        decode_image(data, "x.png")
    assert error.value.reason == reason


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
IPTC = b"\x1c\x03\x3c\x00\x02\x01\x00" + b"\x1c\x03\x14\x00\x01\x08" + b"\x1c\x03\x1e\x00\x01\x08"
IPTC += b"\x1c\x03\x78\x00\x05\x00\x00\x00\x00\x01" + b"\x1c\x08\x0a" + struct.pack(">H", len(EPS)) + EPS
NOT_OPENED = {
    "EPS": EPS,
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS,
    "IPTC": IPTC,
    "WMF": b"\xd7\xcd\xc6\x9a\x00\x00" + struct.pack("<hhhhh", 0, 0, 9, 9, 72) + bytes(6) + b"\x01\x00\x09\x00",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(64),
}


@pytest.mark.parametrize(("name", "data"), NOT_OPENED.items(), ids=NOT_OPENED)
def test_what_another_program_would_decode_is_not_opened(tmp_path, monkeypatch, name, data):
    """A stand-in for Ghostscript leaves a file behind when it is started."""
    ran, program = tmp_path / "ran", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow remembers whether it has found one
    (tmp_path / "a.jpg").write_bytes(data)
    reason = "not an image" if name == "IPTC" else "format not opened"
    with pytest.raises(UnreadableImageError, match=rf"a\.jpg: {reason}") as error:
        load_image(tmp_path / "a.jpg")
    assert error.value.reason == reason and (reason == "not an image" or name.split()[0] in str(error.value))
    assert ending_of(data) == "jpg" and not ran.exists()


def test_images_are_opened_in_one_place():
    files = [file for file in Path("lit_blip2").rglob("*.py") if "Image.open(" in file.read_text(encoding="utf-8")]
    assert files == [Path("lit_blip2/data/images.py")]


def test_every_picture_that_pillow_writes_is_still_read():
    """All of them but those that it writes and cannot read, and those that are not opened."""
    Image.init()
    image, read = Image.new("RGB", (32, 32), (200, 200, 200)), set()
    for name in sorted(FORMATS & Image.SAVE.keys()):
        written = io.BytesIO()
        try:
            image.convert("1" if name in ("MSP", "XBM") else "F" if name == "SPIDER" else "RGB").save(written, name)
        except (OSError, ValueError):  # an encoder that this Pillow lacks, or another mode
            continue
        if name != "SPIDER":  # fractions
            assert decode_image(written.getvalue(), name).getpixel((3, 3))[0] > 150, name
        read.add(name)
    assert read >= {"BMP", "DDS", "GIF", "ICNS", "ICO", "JPEG", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_files_are_named(tmp_path, suffix):
    path, noise = tmp_path / f"cut.{suffix}", np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImageError, match=f"cut.{suffix}") as error:
        load_image(path)
    assert error.value.reason == "truncated"
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_image(tmp_path / "gone.png")


def test_a_damaged_exif_block_says_nothing_about_the_pixels():
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(stream, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffbroken")
    assert decode_image(stream.getvalue(), "x.jpg").size == (8, 6)


def test_pixels_that_are_fractions_are_refused():
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(stream, "TIFF")
    with pytest.raises(UnreadableImageError, match=r"x\.tif: pixels are fractions"):
        decode_image(stream.getvalue(), "x.tif")


def test_a_folder_in_the_place_of_an_image(tmp_path):
    with pytest.raises(UnreadableImageError, match="cannot be opened"):
        load_image(tmp_path)


RAMP = np.linspace(0, 1, 12).reshape(3, 4)


def deep_png(values: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits; Pillow writes no other than grey ones. colour: PNG's colour type."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND")
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bare_tiff(
    values: bytes, bits: int, photometric: int = 1, format: int = 1, width: int = 4, height: int = 3
) -> bytes:
    """A grey TIFF, not compressed. format: 1 unsigned, 2 signed."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(values), 339: format}
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, it) for tag, it in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + struct.pack("<H", len(tags)) + entries + bytes(4)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(format: str = "JPEG", **options) -> bytes:
    """The file of a picture with a grain, so that most of it is pixels."""
    grain = np.random.default_rng(0).integers(0, 256, (160, 120, 3), dtype=np.uint8)
    return saved(Image.fromarray(grain // 8 * 5), format, **options)


WHOLE = {
    "baseline": photo(),
    "progressive": photo(progressive=True),
    "optimised": photo(optimize=True, quality=95),
    "grey": saved(Image.open(io.BytesIO(photo())).convert("L"), "JPEG"),
    "with a thumbnail": photo(exif=Image.Exif().tobytes() + saved(Image.new("RGB", (60, 60), "red"), "JPEG")),
    "several pictures": photo("MPO", save_all=True, append_images=[Image.new("RGB", (99, 9), "blue")]),
    "png": photo("PNG"),
    "animated png": photo("PNG", save_all=True, append_images=[Image.new("RGB", (120, 160), "blue")]),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_copy_whose_tail_is_zeros_is_not_read_as_half_a_picture(data):
    """As a file system leaves it where a copy broke off: the size is right, and zeros decode as pixels."""
    for share in np.linspace(0.5, 0.93, 20):  # of several pictures the first, which is read, is the most
        broken_off = data[: int(share * len(data))].ljust(len(data), b"\0")
        with pytest.raises(UnreadableImageError) as error:
            decode_image(broken_off, "x.jpg")
        assert error.value.reason in ("truncated", "damaged")


@pytest.mark.parametrize(("data", "end"), [(WHOLE["baseline"], 2), (WHOLE["png"], 12), (WHOLE["png"], 8)])
def test_a_picture_without_its_end_mark_is_truncated(data, end):
    with pytest.raises(UnreadableImageError, match=r"truncated .*get it again") as error:
        decode_image(data[:-end].ljust(len(data), b"\0"), "x.jpg")
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("behind", [b"", bytes(5000), b"a camera's own notes \xff\xda \xff\xd8", b"\xff\xd9"])
def test_what_stands_behind_the_end_of_a_whole_picture_changes_nothing(data, behind):
    assert decode_image(data + behind, "x.jpg") == decode_image(data, "x.jpg")


def rgba(grey: np.ndarray, white: int) -> np.ndarray:
    return np.stack([grey * white] * 3 + [np.full_like(grey, 65535)], -1)


# Colour types of PNG: grey, RGB, grey and alpha, RGBA -> their channels of `rgba`.
PLANES = {0: slice(0, 1), 2: slice(0, 3), 4: slice(2, 4), 6: slice(0, 4)}


def sbit(bits: int, colour: int) -> bytes:
    """A PNG's chunk that says how many bits are used."""
    chunk = b"sBIT" + bytes([bits] * {0: 1, 2: 3, 4: 2, 6: 4}[colour])
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("colour", [0, 2, 4, 6], ids=["grey", "rgb", "grey and alpha", "rgba"])
def test_sixteen_bits_of_which_fewer_are_used_are_refused(bits, colour):
    """Grey ones, and those of which Pillow itself leaves the lower 8 away."""
    with pytest.raises(UnreadableImageError, match=r"x\.png: unknown value range \(values from 0 to \d+, where"):
        decode_image(deep_png(rgba(RAMP, 2**bits - 1)[..., PLANES[colour]], colour), "x.png")
    full = np.asarray(decode_image(deep_png(rgba(RAMP, 65535)[..., PLANES[colour]], colour), "x.png"))
    assert np.abs(full[..., 1] - RAMP * 255).max() <= 1
    assert not np.asarray(decode_image(deep_png(rgba(RAMP * 0, 0)[..., PLANES[colour]], colour), "x.png")).any()


def test_twelve_bits_that_the_file_tells_are_scaled():
    twelve = (RAMP * 4095).round().astype(int).reshape(-1, 2)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in twelve.tolist())
    found = np.asarray(decode_image(bare_tiff(packed, 12), "x.tif"))[..., 0]
    assert np.abs(found - RAMP * 255).max() <= 1
    assert found[-1, -1] == 255


@pytest.mark.parametrize(
    ("values", "bits", "format"),
    [
        ((RAMP * (2**32 - 1)).astype("<u4"), 32, 1),
        ((RAMP * (2**31 - 1)).astype("<i4"), 32, 2),
        ((RAMP * 255).astype("<u4"), 32, 1),
        ((RAMP * 3000 - 1000).astype("<i2"), 16, 2),  # as a scanner counts
        ((RAMP * 4095).astype("<u2"), 16, 1),
        ((RAMP * 200 - 100).astype("i1"), 8, 2),
    ],
)
def test_values_without_a_white_are_refused(values, bits, format):
    with pytest.raises(UnreadableImageError, match="unknown value range") as error:
        decode_image(bare_tiff(values.tobytes(), bits, format=format), "x.tif")
    assert error.value.reason == "unknown value range"


def test_where_zero_is_white_it_is_white():
    deep, plain = (RAMP * 65535).astype("<u2"), (RAMP * 255).astype(np.uint8)
    for values, bits in ((deep, 16), (plain, 8)):
        found = np.asarray(decode_image(bare_tiff(values.tobytes(), bits, photometric=0), "x.tif"))[..., 0]
        assert np.abs(found - (1 - RAMP) * 255).max() <= 1


def test_what_is_drawn_in_alpha_alone_lies_over_white():
    logo = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    logo.putpixel((5, 3), (0, 0, 0, 255))
    for file in (saved(logo, "PNG"), saved(logo, "WEBP", lossless=True), saved(logo.convert("LA"), "PNG")):
        image = decode_image(file, "logo")
        assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((5, 3)) == (0, 0, 0)
    half = decode_image(saved(Image.new("RGBA", (2, 2), (100, 0, 0, 51)), "PNG"), "half").getpixel((0, 0))
    assert half == (100, 0, 0)


def test_a_stray_colour_under_what_is_transparent_changes_nothing():
    drawn = np.zeros((6, 4, 4), dtype=np.uint8)
    drawn[2] = 0, 0, 0, 255
    drawn[0, 0] = 1, 0, 0, 0
    found = np.asarray(decode_image(saved(Image.fromarray(drawn), "PNG"), "x.png"))
    assert (found[2] == 0).all() and (np.delete(found, 2, 0) == 255).all()
    deep = np.asarray(decode_image(deep_png(drawn.astype(int) * (1, 1, 1, 257), 6), "x.png"))
    assert (deep == found).all()


def test_what_is_transparent_lies_over_white_in_every_mode():
    noise = np.random.default_rng(1).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    colour_HW3, alpha_HW1 = noise[..., :3].astype(float), noise[..., 3:].astype(float) / 255
    found = np.asarray(decode_image(saved(Image.fromarray(noise), "PNG"), "x.png"))
    assert np.abs(found - (colour_HW3 * alpha_HW1 + 255 * (1 - alpha_HW1))).max() <= 1
    grey = Image.fromarray(noise).convert("LA")
    found = np.asarray(decode_image(saved(grey, "PNG"), "x.png"))
    assert np.abs(found[..., :1] - (np.asarray(grey)[..., :1] * alpha_HW1 + 255 * (1 - alpha_HW1))).max() <= 1
    for mode, key in (("P", 3), ("RGB", (1, 2, 3)), ("L", 7)):
        image = Image.new("RGB", (7, 5), (1, 2, 3) if mode == "RGB" else (7, 7, 7)).convert(mode)
        image.paste(3 if mode == "P" else key, (0, 0, 3, 5))
        image.paste({"P": 5, "RGB": (9, 8, 7), "L": 90}[mode], (3, 0, 7, 5))
        found = np.asarray(decode_image(saved(image, "PNG", transparency=key), "x.png"))
        assert (found[:, :3] == 255).all() and (found[:, 3:] == np.asarray(image.convert("RGB"))[:, 3:]).all()


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_of_one_value_is_dropped(mode, alpha):
    noise = np.random.default_rng(1).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    noise[..., 3] = alpha
    image = Image.fromarray(noise).convert(mode)
    assert decode_image(saved(image, "PNG"), "x.png").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("factor", [257, 256])
@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_a_dark_image_of_eight_bits_in_sixteen_is_taken_as_it_is(colour, factor):
    values = (RAMP * 60).round().astype(int)
    found = np.asarray(decode_image(deep_png(rgba(values, factor)[..., PLANES[colour]], colour), "x.png"))
    assert np.abs(found[..., 0].astype(int) - values).max() <= 1


def test_a_dark_image_whose_file_tells_its_white_is_taken_as_it_is():
    image = Image.fromarray((RAMP * 9000).astype(np.uint16))
    found = np.asarray(decode_image(saved(image, "TIFF", tiffinfo={281: 65535}), "x.tif"))[..., 0]
    assert np.abs(found - RAMP * 9000 / 257).max() <= 1


@pytest.mark.parametrize("colour", [2, 4, 6], ids=["rgb", "grey and alpha", "rgba"])
def test_sixteen_bits_of_which_the_lower_eight_are_used_are_refused(colour):
    with pytest.raises(UnreadableImageError, match="values from 0 to 255, where 65535"):
        decode_image(deep_png(rgba(RAMP, 255)[..., PLANES[colour]], colour), "x.png")


@pytest.mark.parametrize(("bits", "kind"), [(8, "i1"), (16, "<i2")])
def test_values_with_a_sign_are_scaled_by_their_limit(bits, kind):
    data = bare_tiff((RAMP * (2 ** (bits - 1) - 1)).astype(kind).tobytes(), bits, format=2)
    assert np.abs(np.asarray(decode_image(data, "x.tif"))[..., 0] - RAMP * 255).max() <= 2


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_a_png_tells_how_many_bits_it_uses(colour):
    chunk = sbit(12, colour)
    for white in (4095, 65535):
        data = deep_png(rgba(RAMP, white)[..., PLANES[colour]], colour)
        found = np.asarray(decode_image(data[:33] + chunk + data[33:], "x.png"))[..., 1]
        assert np.abs(found - RAMP * 255).max() <= 1
    dark = deep_png((rgba(RAMP, 255).astype(int) * 16)[..., PLANES[colour]], colour)  # of 12 bits, shifted, as PNG asks
    with pytest.raises(UnreadableImageError, match="unknown value range"):
        decode_image(dark[:33] + chunk + dark[33:], "x.png")


def test_a_tiff_tells_its_largest_value():
    for white, limit in ((4095, 4095), (65535, 65535)):
        image = Image.fromarray((RAMP * white).astype(np.uint16))
        found = np.asarray(decode_image(saved(image, "TIFF", tiffinfo={281: limit}), "x.tif"))[..., 0]
        assert np.abs(found - RAMP * 255).max() <= 1


def spoilt(size: int = 40, most: int = 2000) -> np.ndarray:
    """An image of 11 bits, of which some pixels are saturated: a label in the corner."""
    values = np.random.default_rng(2).integers(0, most, (size, size))
    values[:2, :8] = 65535
    return values


def dead(values: np.ndarray) -> np.ndarray:
    """With pixels of any value in the place of the label."""
    values[:2, :8] = 1000
    values[3, 3], values[5, 9], values[20, 7] = 20000, 40000, 60000
    return values


def labelled(values: np.ndarray) -> np.ndarray:
    """With a word whose edges are smooth in the place of the label."""
    drawn = Image.new("L", values.shape[::-1])
    ImageDraw.Draw(drawn).text((4, 4), "L 12", fill=255, font=ImageFont.load_default(18))
    share = np.asarray(drawn) / 255
    values[:2, :8] = 1000
    return (values * (1 - share) + 65535 * share).astype(int)


@pytest.mark.parametrize("change", [lambda values: values, dead, labelled], ids=["label", "dead pixels", "smooth"])
@pytest.mark.parametrize("colour", ["tif", 0, 2, 4, 6])
def test_few_bright_pixels_do_not_say_what_is_white(colour, change):
    values = change(spoilt(100))
    if colour == "tif":
        data = saved(Image.fromarray(values.astype(np.uint16)), "TIFF")
    else:
        data = deep_png(rgba(values, 1)[..., PLANES[colour]], colour)
    with pytest.raises(UnreadableImageError, match=r"but for few up to \d+, where 65535 would be white") as error:
        decode_image(data, "x")
    assert error.value.reason == "unknown value range"


def test_few_bright_pixels_of_other_kinds_of_values():
    signed, size = np.minimum(spoilt(), 32767), {"width": 40, "height": 40}
    with pytest.raises(UnreadableImageError, match="few up to 32767, where 32767 would be white"):
        decode_image(bare_tiff(signed.astype("<i2").tobytes(), 16, format=2, **size), "x.tif")
    whole = Image.fromarray(spoilt().astype(np.int32))
    with pytest.raises(UnreadableImageError, match="few up to 65535"):
        decode_image(saved(whole, "TIFF"), "x.tif")
    with pytest.raises(UnreadableImageError, match="few up to 65535"):
        decode_image(saved(Image.fromarray(spoilt().astype(np.uint16)), "PNG"), "x.png")
    with pytest.raises(UnreadableImageError, match="few up to 65535"):
        decode_image(bare_tiff(spoilt().astype("<u2").tobytes(), 16, photometric=0, **size), "x.tif")


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_a_told_white_holds_though_few_pixels_are_saturated(colour):
    values = spoilt(most=4096)
    data = deep_png(rgba(values, 1)[..., PLANES[colour]], colour)
    found = np.asarray(decode_image(data[:33] + sbit(12, colour) + data[33:], "x.png"))[..., 1]
    assert np.abs(found - np.minimum(values / 4095, 1) * 255).max() <= 1
    image = Image.fromarray(values.astype(np.uint16))
    assert (np.asarray(decode_image(saved(image, "TIFF", tiffinfo={281: 4095}), "x.tif"))[..., 1] == found).all()


def band(low: int, high: int) -> np.ndarray:
    return np.linspace(low, high, 1600).astype(int).reshape(40, 40)


BANDS = {"CT, 32768 above": (31768, 33768), "thermal": (29000, 31000), "bright": (61000, 65000)}


@pytest.mark.parametrize("limits", BANDS.values(), ids=BANDS)
@pytest.mark.parametrize("colour", ["tif", "ppm", 0, 2, 4, 6])
def test_sixteen_bits_in_a_narrow_band_are_refused(colour, limits):
    (low, high), data = limits, written(band(*limits), colour)
    words = f"values from {low} to {high}, where 65535 would be white: a range of {high - low}, at least 4096 is read"
    with pytest.raises(UnreadableImageError, match=words) as error:
        decode_image(data, "x")
    assert error.value.reason == "unknown value range"


@pytest.mark.parametrize("limits", [(30000, 30200), (26000, 40000), (40000, 40000)], ids=["one", "fog", "constant"])
@pytest.mark.parametrize("colour", ["tif", "ppm", 0, 2, 4, 6])
def test_sixteen_bits_of_fog_or_of_one_grey_are_read(colour, limits):
    found = np.asarray(decode_image(written(band(*limits), colour), "x"))[..., 1]
    assert np.abs(found - band(*limits) / 257).max() <= 1


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("colour", ["tif", "ppm", 0, 2, 4, 6])
def test_fog_of_eight_bits_that_were_widened_is_read(colour, factor):
    found = np.asarray(decode_image(written(band(100, 110) * factor, colour), "x"))[..., 1]
    assert np.abs(found - band(100, 110)).max() <= 1


def test_a_ppm_of_dark_colours_is_refused_as_other_files_are():
    """Of which Pillow gives 8 bits: 4095 came out as 15 of 255. A lower largest value says what is white."""
    values = band(0, 4095)[..., None].repeat(3, 2)
    text = "# a line of words\n" + " ".join(map(str, values.ravel()))
    for begin, body in ((b"P6", values.astype(">u2").tobytes()), (b"P3", text.encode())):
        with pytest.raises(UnreadableImageError, match="values from 0 to 4095, where 65535 would be white: scale"):
            decode_image(begin + b" 40 40 65535\n" + body, "x.ppm")
        found = np.asarray(decode_image(begin + b" 40 40 4095\n" + body, "x.ppm"))
        assert np.abs(found - values * 255 / 4095).max() <= 1


def written(values: np.ndarray, colour: str | int) -> bytes:
    """A file of 16 bits, of one grey."""
    if colour == "tif":
        return saved(Image.fromarray(values.astype(np.uint16)), "TIFF")
    if colour == "ppm":
        return b"P6 40 40 65535\n" + values[..., None].repeat(3, 2).astype(">u2").tobytes()
    return deep_png(rgba(values, 1)[..., PLANES[colour]], colour)


def lamp(radius: float, blur: float) -> np.ndarray:
    """Something round and white in the dark, whose edge is as sharp as the lens."""
    rows, columns = np.mgrid[:100, :100]
    edge = np.hypot(rows - 50, columns - 50) - radius
    noise = np.random.default_rng(3).gamma(2, 700, (100, 100))
    return np.clip(noise + 65535 / (1 + np.exp(1.7 * edge / blur)), 0, 65535).astype(int)


def word() -> np.ndarray:
    """White on black."""
    return labelled(np.zeros((100, 100), dtype=int)).clip(max=65535)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(4).integers(0, 65536, (40, 40)),
        np.random.default_rng(4).integers(0, 1 << 14, (40, 40)) + 300,  # just above a quarter
        np.random.default_rng(4).exponential(4000, (60, 60)).clip(max=65535).astype(int),
        lamp(6, 1),
        lamp(10, 2),
        word(),
        np.where(np.arange(1600).reshape(40, 40) < 100, 65535, np.arange(1600).reshape(40, 40)),  # a white border
        np.where(spoilt() > 60000, 65535, spoilt() % 64 * 257),  # of 8 bits, doubled
        np.where(spoilt() > 60000, 65280, spoilt() % 64 * 256),  # shifted
        np.where(spoilt() > 60000, 65535, spoilt() % 64 * 256),
    ],
)
@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_dark_images_of_sixteen_bits_with_bright_parts_stay_as_they_are(colour, values):
    found = np.asarray(decode_image(deep_png(rgba(values, 1)[..., PLANES[colour]], colour), "x.png"))
    wanted = (values * 255 / 65535).round() if colour == 0 else values >> 8  # Pillow keeps the upper 8 of colours
    assert (found[..., 1] == wanted).all()


def test_a_dark_image_of_eight_bits_is_taken_as_it_is():
    assert decode_image(saved(Image.new("RGB", (3, 3), (9, 8, 7)), "PNG"), "x").getpixel((1, 1)) == (9, 8, 7)
    five_six_five = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + struct.pack(
        "<III", 0xF800, 0x7E0, 0x1F
    )
    bitmap = b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + five_six_five + struct.pack("<HH", 0x0841, 0x0841)
    assert decode_image(bitmap, "x.bmp").getpixel((0, 0)) == (8, 8, 8)


def test_a_png_that_tells_all_its_bits_tells_no_white():
    """Values of 12 bits are refused with sBIT = 16 as without it; those that reach white are read."""
    data = deep_png(rgba(RAMP, 4095)[..., PLANES[0]], 0)
    with pytest.raises(UnreadableImageError, match="values from 0 to 4095, where 65535 would be white"):
        decode_image(data[:33] + sbit(16, 0) + data[33:], "x.png")
    data = deep_png(rgba(RAMP, 65535)[..., PLANES[0]], 0)
    assert np.asarray(decode_image(data[:33] + sbit(16, 0) + data[33:], "x.png"))[..., 0].max() == 255
