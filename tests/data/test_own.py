"""Pictures of one's own: what columns are called, which files of a folder are pictures, and where they are missing."""

from pathlib import Path

import pytest
from PIL import Image

from lit_blip2.contents import DataError
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.data.annotations.pictures import pictures_in
from lit_blip2.data.images import UnreadableImageError, decode_image
from lit_blip2.data.missing import check_some_there
from lit_blip2.data.own import OwnData

NAMES = ["IMG_1.JPG", "a b.png", "beach, evening.png", "sub/é.webp"]


@pytest.fixture
def photos(tmp_path):
    """A folder of four pictures, one of them in a folder of its own, and of files that are none."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 6), (40 * number, 0, 0)).save(folder / name)
    for name in ("notes.txt", ".hidden.jpg", "clip.mov"):
        (folder / name).write_text("x")
    quoted = [f'"{name}"' for name in NAMES]
    (folder / "captions.csv").write_text("".join(f"{name},{text}\n" for name, text in zip(["image", *quoted], TEXTS)))
    return folder


TEXTS = ["caption", "a", "b", "c", "d"]


def test_pictures_of_a_folder_are_those_that_end_like_one(photos):
    assert pictures_in(photos) == NAMES
    (photos / "sub/phone.HEIC").write_bytes(b"x")  # is named as unreadable, and not passed over
    assert pictures_in(photos / "sub") == ["phone.HEIC", "é.webp"]
    (photos / "none").mkdir()
    with pytest.raises(DataError, match=r"none holds no pictures"):
        pictures_in(photos / "none")


def test_a_phones_picture_is_named_by_its_format():
    with pytest.raises(UnreadableImageError, match=r"HEIC: save it as PNG or JPEG"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "IMG_1.HEIC")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "who,file,title,caption\nme,a.jpg,A dog.,no\nyou,b.jpg,a cat,no\n"),
        ("x.tsv", "file\ttitle\na.jpg\ta dog\nb.jpg\ta cat\n"),
        ("x.jsonl", '{"file": "a.jpg", "title": "a dog"}\n{"file": "b.jpg", "title": "a cat", "image": "c.jpg"}\n'),
        ("x.json", '[{"file": "a.jpg", "title": ["a dog"]}, {"file": "b.jpg", "title": "a cat"}]'),
    ],
)
def test_columns_are_called_what_they_are_called(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    read = read_captions(tmp_path / name, columns={"image": "file", "caption": "title"})
    assert list(read.files) == ["a.jpg", "b.jpg"] and list(read.texts) == ["a dog", "a cat"]


def test_a_column_that_is_not_there_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("file,title\na.jpg,a dog\n")
    with pytest.raises(DataError, match=r"line 2: has no 'text', which data\.columns names: it has file, title"):
        read_captions(tmp_path / "x.csv", columns={"image": "file", "caption": "text"})
    with pytest.raises(DataError, match=r"has file, title: .*--data\.columns="):
        read_captions(tmp_path / "x.csv")


def test_a_cell_of_a_named_column_may_not_be_left_out(tmp_path):
    (tmp_path / "x.csv").write_text("file,title\na.jpg\n")
    with pytest.raises(DataError, match=r"line 2 has 1 cells, and the first line names 2 columns"):
        read_captions(tmp_path / "x.csv", columns={"image": "file", "caption": "title"})


@pytest.mark.filterwarnings("ignore:.*holds no captions")
def test_pictures_without_captions_can_be_tested_on(photos, tmp_path):
    (tmp_path / "x.csv").write_text("image\na.jpg\nb.jpg\n")
    assert list(read_captions(tmp_path / "x.csv", "test").files) == ["a.jpg", "b.jpg"]
    with pytest.raises(DataError, match=r"needs image and caption, and has image"):
        read_captions(tmp_path / "x.csv", "train")
    assert list(read_captions(photos, "test").files) == NAMES
    with pytest.raises(DataError, match=r"photos is a folder"):
        read_captions(photos, "train")


def test_images_without_a_caption_are_named_by_their_files(tmp_path):
    (tmp_path / "x.csv").write_text("image,caption\na.jpg,a dog\nb.jpg,\nc.jpg,\n")
    with pytest.raises(DataError, match=r"image 1, image 2 have no caption, or only empty ones \(b\.jpg, c\.jpg\)"):
        read_captions(tmp_path / "x.csv")


def test_a_folder_and_its_table_are_ready_to_train_on(photos):
    data = OwnData(root=str(photos), train="captions.csv", image_size=4)
    data.setup("fit")
    assert [data.pairs.view(place, None).shape for place in range(4)] == [(3, 4, 4)] * 4
    elsewhere = OwnData(root=str(photos.parent), images="/nowhere", train=str(photos / "absolute.csv"))
    (photos / "absolute.csv").write_text(f"image,caption\n{photos / NAMES[0]},a\n")
    elsewhere.setup("fit")
    assert elsewhere.pairs.path(0) == photos / NAMES[0]


def test_home_is_read_where_the_shell_leaves_it(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    OwnData(root="~/photos", train="~/photos/captions.csv", image_size=4).setup("fit")


def test_blanks_around_names_of_columns_are_none_of_them(tmp_path):
    (tmp_path / "x.csv").write_text("image, caption\na.jpg, a dog\n")
    assert list(read_captions(tmp_path / "x.csv").texts) == ["a dog"]


def test_a_wrong_folder_is_named_with_what_is_there(photos):
    lost = OwnData(root=str(photos), images="pictures", train="captions.csv")
    with pytest.raises(
        FileNotFoundError, match=r"in .*photos/pictures \(data\.root and data\.images\), which is not"
    ) as told:
        lost.setup("fit")
    assert f"{photos} holds .hidden.jpg, IMG_1.JPG, a b.png" in str(told.value) and "mini" not in str(told.value)
    with pytest.raises(
        FileNotFoundError, match=r"missing: .*captions\.csv\. data\.root is the folder of your pictures"
    ):
        OwnData(root=str(photos / "sub"), train="captions.csv").setup("fit")
    with pytest.raises(FileNotFoundError, match=r"img_1\.jpg \(there is IMG_1\.JPG\): the image of mine is not in"):
        check_some_there([photos / "img_1.jpg"], photos, "mine")


def test_one_picture_that_is_missing_does_not_stop_a_run(photos):
    Path(photos / NAMES[0]).unlink()
    OwnData(root=str(photos), train="captions.csv", image_size=4).setup("fit")
