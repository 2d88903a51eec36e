"""Which file stands for an image."""

import numpy as np
import pytest
from PIL import Image

from lit_blip2.data import module
from lit_blip2.data.annotations.strings import Strings
from lit_blip2.data.batches.evaluation import Pixels, is_flat, own_name
from lit_blip2.data.coco import COCO
from tests.data.annotations.test_captions import write_json
from tests.data.cached import keys_of


@pytest.mark.parametrize(
    ("file", "folder", "name"),
    [
        ("val2014/COCO_val2014_000000000042.jpg", "coco", "COCO_val2014_000000000042.jpg"),
        ("val2014/COCO_val2014_000000000042.jpg", "coco/val2014", "COCO_val2014_000000000042.jpg"),
        ("flickr30k-images/7.jpg", "flickr30k/flickr30k-images", "7.jpg"),
        ("images/val/7.jpg", "root/images/val", "7.jpg"),
        ("val/7.jpg", "root/val/images", "val/7.jpg"),
        ("train2014/COCO_val2014_000000000042.jpg", "coco/val2014", "train2014/COCO_val2014_000000000042.jpg"),
        ("7.jpg", "root/7.jpg", "7.jpg"),
    ],
)
def test_a_folder_is_part_of_a_name_unless_it_can_be_no_other(tmp_path, file, folder, name):
    assert own_name(file, tmp_path / folder) == name


def test_another_folders_image_never_stands_in(tmp_path):
    pixels = Pixels(tmp_path / "pets", 8)
    for name in ("7.png", "cats/7.png", "COCO_val2014_7.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name)
    with pytest.raises(FileNotFoundError, match=r"pets/dogs/7\.png"):
        pixels.read("dogs/7.png")
    for name, there in (("pets/7.png", "7.png"), ("val2014/COCO_val2014_7.png", "COCO_val2014_7.png")):
        assert pixels.path(name) == tmp_path / "pets" / there
    keys = pixels.keys(["dogs/7.png", "cats/7.png", "pets/7.png", "val2014/COCO_val2014_7.png"])
    assert np.array_equal(keys, keys_of(["dogs/7.png", "cats/7.png", "7.png", "COCO_val2014_7.png"]))


def test_one_id_is_one_file_in_all_that_a_split_reads(tmp_path):
    """Files of one name in two folders are two."""
    captions = [{"image": "cats/7.png", "caption": "a cat", "image_id": 7}]
    asked = [{"question_id": 1, "image_id": 7, "question": "what?"}]
    said = [{"question_id": 1, "image_id": 7, "question_type": "what", "answers": [{"answer": "dog"}]}]
    named = {"images": [{"id": 7, "file_name": "dogs/7.png"}], "annotations": []}
    for name, content in (
        ("c.json", captions), ("q.json", {"questions": asked}), ("a.json", {"annotations": said}), ("i.json", named),
    ):  # fmt: skip
        write_json(tmp_path / name, content)
    binding = {"images": [*named["images"], {"id": 8, "file_name": "8.png"}]}
    binding["pairs"] = [{"image_id": 7, "swapped_image_id": 8, "caption": "a dog"}]
    write_json(tmp_path / "b.json", binding)
    with pytest.raises(ValueError, match=r"image id 7 stands for both cats/7\.png and dogs/7\.png"):
        COCO(root=str(tmp_path), val="c.json", binding_val="b.json").evaluation_images("val")


def flat_or_not(folder, *names: str) -> bool:
    return is_flat(folder, [Strings([name]) for name in names])


def test_a_data_set_in_one_folder_is_read_where_each_name_can_be_one_file_alone(tmp_path):
    assert flat_or_not(tmp_path, "one/1.jpg", "two/2.jpg", "3.jpg") and flat_or_not(tmp_path, "one/1.jpg", "one/1.jpg")
    assert not flat_or_not(tmp_path, "one/1.jpg", "two/1.jpg") and not flat_or_not(tmp_path, "one/1.jpg", "1.jpg")
    assert not flat_or_not(tmp_path, "1.jpg") and not flat_or_not(tmp_path)
    (tmp_path / "two").mkdir()
    assert not flat_or_not(tmp_path, "one/1.jpg", "two/2.jpg")
    assert not flat_or_not(tmp_path, "../1.jpg") and not flat_or_not(tmp_path, str(tmp_path / "one" / "1.jpg"))


@pytest.mark.parametrize(
    ("val", "there"), [("two/2.jpg", "2.jpg"), ("two/1.jpg", "two/1.jpg"), ("three/2.jpg", "three/2.jpg")]
)
def test_names_of_all_splits_in_a_folder_count(tmp_path, val, there, monkeypatch):
    """Of three files in images/, without folders: two/1.jpg is not one/1.jpg's file; three/ is there, and is empty."""
    for name, files in (("train.json", ["one/1.jpg", "one/3.jpg"]), ("val.json", [val])):
        rows = [{"image": file, "caption": "a", "image_id": len(file) + int(file[-5])} for file in files]
        write_json(tmp_path / name, rows)
    for number in (1, 2, 3):
        (tmp_path / "images" / "three").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"images/{number}.jpg")
    data = COCO(root=str(tmp_path), images="images", train="train.json", val="val.json", image_size=8)
    monkeypatch.setattr(module, "rank_zero_info", (told := []).append)
    data.read("val")
    train = data.train_pairs()
    assert data.pixels("val").path(val) == tmp_path / "images" / there
    flat = val == "two/2.jpg"
    said = f"{tmp_path / 'images'}: two/2.jpg and all others are read without their folders, of which none is there"
    assert told == ([said] if flat else [])
    assert train.images.path("one/3.jpg") == tmp_path / "images" / ("3.jpg" if flat else "one/3.jpg")
