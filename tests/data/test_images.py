"""Every kind of image becomes 8-bit RGB, or an error with the reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lit_blip2.data.images import UnreadableImageError, decode_image, load_image


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


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"words", "no image"), (png_of(9, 9), "truncated")])
def test_what_is_no_image_says_why(data, reason):
    with pytest.raises(UnreadableImageError, match="cannot read image x.png: " + reason) as error:
        decode_image(data, "x.png")
    assert error.value.reason == reason


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
