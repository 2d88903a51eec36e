"""The file of captions of many pictures: whole lines, on from where it stopped, by one checkpoint alone."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lit_blip2.captioned import CaptionFile, Pictures, made_by, pictures_of, write_captions
from lit_blip2.contents import DataError
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.data.images import as_rgb

NAMES = [f"{number}.png" for number in range(7)]


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures, of which the width says which it is."""
    for number, name in enumerate(NAMES):
        Image.new("RGB", (number + 1, 2)).save(tmp_path / name)
    return Pictures(tmp_path, NAMES)


def widths(images: list[Image.Image]) -> list[str]:
    return [f"ü {image.width} wide" for image in images]


def test_each_picture_has_a_line_that_can_be_trained_on(pictures, tmp_path):
    out, told = CaptionFile(tmp_path / "out/c.jsonl", "a run"), []
    assert write_captions(pictures, out, as_rgb, widths, 3, told.append) == (7, 0) and not told
    lines = out.file.read_text().splitlines()
    assert json.loads(lines[2]) == {"image": "2.png", "caption": "ü 3 wide", "made_by": "a run"}
    read = read_captions(out.file)
    assert list(read.files) == NAMES and list(read.texts) == [f"ü {n + 1} wide" for n in range(7)]


def test_a_table_may_call_its_pictures_otherwise(pictures, tmp_path):
    (tmp_path / "t.csv").write_text("file,title\n3.png,three\n1.png,one\n")
    assert pictures_of(tmp_path / "t.csv", column="file") == Pictures(tmp_path, ["3.png", "1.png"])
    with pytest.raises(DataError, match="image"):
        pictures_of(tmp_path / "t.csv")


@pytest.mark.parametrize("cut", [0, 1, 9, -1])
def test_it_goes_on_from_its_last_whole_line(pictures, tmp_path, cut):
    """A kill in the third batch, in the middle of a line: what was done before is not done again."""
    whole = CaptionFile(tmp_path / "whole.jsonl", "a run")
    write_captions(pictures, whole, as_rgb, widths, 2, print)
    lines, file = whole.file.read_bytes().splitlines(keepends=True), tmp_path / "c.jsonl"
    file.write_bytes(b"".join(lines[:4]) + lines[4][:cut])
    out, seen = CaptionFile(file, "a run"), []

    def counted(images):
        seen.extend(images)
        return widths(images)

    assert out.done == set(NAMES[:4]) and write_captions(pictures, out, as_rgb, counted, 2, print) == (3, 0)
    assert file.read_bytes() == whole.file.read_bytes() and len(seen) == 3
    assert CaptionFile(file, "a run").done == set(NAMES)


def test_a_run_that_ends_early_loses_its_batch_alone(pictures, tmp_path):
    out, batches = CaptionFile(tmp_path / "c.jsonl", "a run"), []

    def stopped(images):
        batches.append(images)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return widths(images)

    with pytest.raises(KeyboardInterrupt):
        write_captions(pictures, out, as_rgb, stopped, 2, print)
    assert CaptionFile(out.file, "a run").done == set(NAMES[:4])


def test_what_cannot_be_read_is_named_and_passed_over(pictures, tmp_path):
    (tmp_path / "1.png").write_text("my notes")
    (tmp_path / "3.png").unlink()
    out, told = CaptionFile(tmp_path / "c.jsonl", "a run"), []
    assert write_captions(pictures, out, as_rgb, widths, 4, told.append) == (5, 2)
    said = f"cannot read image {tmp_path / '1.png'}: not an image"
    assert told == [said, f"no image file {str(tmp_path / '3.png')!r}"]
    assert CaptionFile(out.file, "a run").done == set(NAMES) - {"1.png", "3.png"}


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_file_of_something_else_is_refused_and_kept(tmp_path, end):
    row = '{"image": "a.jpg", "caption": "mine"}'
    for content in (
        "image,caption\na.jpg,a",
        row,
        row[:-1],
        f"{row}\n{row[:20]}",
        '{"image": "a.jpg", "made_by": "b"}',
    ):
        if content == row[:-1] and not end:
            continue  # a line of `caption` that was cut looks like this
        (tmp_path / "c.jsonl").write_text(content + end)
        with pytest.raises(ValueError, match=r"c\.jsonl"):
            CaptionFile(tmp_path / "c.jsonl", "a run")
        assert (tmp_path / "c.jsonl").read_text() == content + end


def test_another_checkpoint_decoding_or_folder_is_refused(pictures, tmp_path):
    checkpoint = tmp_path / "runs/mine/version_0/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"one")
    made = made_by(checkpoint, "num_beams 1", tmp_path)
    assert made.startswith("mine/version_0 (") and "num_beams 1" in made and str(tmp_path) in made
    others = [made_by(checkpoint, "num_beams 5", tmp_path), made_by(checkpoint, "num_beams 1", tmp_path / "runs")]
    checkpoint.write_bytes(b"two")
    others.append(made_by(checkpoint, "num_beams 1", tmp_path))
    write_captions(pictures, CaptionFile(tmp_path / "c.jsonl", made), as_rgb, widths, 4, print)
    for other in others:
        with pytest.raises(ValueError, match=r"c\.jsonl was made by mine/version_0 .*, and now it is mine/version_0"):
            CaptionFile(tmp_path / "c.jsonl", other)


def test_pictures_of_a_folder_and_of_tables(pictures, tmp_path):
    (tmp_path / "a.csv").write_text("image,other\n2.png,x\n0.png,y\n2.png,z\n")
    (tmp_path / "b.jsonl").write_text('{"image": "5.png"}\n')
    assert pictures_of(tmp_path) == Pictures(tmp_path, NAMES) and pictures_of(tmp_path / "0.png") is None
    assert pictures_of(tmp_path / "a.csv") == Pictures(tmp_path, ["2.png", "0.png"])
    assert pictures_of(tmp_path / "b.jsonl", Path("elsewhere")) == Pictures(Path("elsewhere"), ["5.png"])
    (tmp_path / "c.csv").write_text("file\n2.png\n")
    with pytest.raises(DataError, match=r"c\.csv: line 2: needs image and caption, and has file"):
        pictures_of(tmp_path / "c.csv")
