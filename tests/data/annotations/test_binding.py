"""Pairs of images for one caption, with two colours swapped."""

import pytest

from lit_blip2.data.annotations.binding import read_binding
from tests.data.annotations.test_captions import write_json


def listed(ids):
    return [{"id": i, "file_name": f"{i:012d}.png"} for i in ids]


def test_binding_pairs(tmp_path):
    rows = [{"image_id": 2, "swapped_image_id": 1, "caption": "Red, blue."}]
    pairs = read_binding(write_json(tmp_path / "b.json", {"images": listed([1, 2]), "pairs": rows}))
    assert (pairs.image_ids.tolist(), pairs.swapped_image_ids.tolist()) == ([2], [1])
    assert (pairs.files[0], pairs.swapped_files[0]) == ("000000000002.png", "000000000001.png")
    assert pairs.captions[0] == "red, blue"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swapped_image_id": 3}, r"image 3 of pair \(2, 3\) is not in"),
        ({"swapped_image_id": 2}, r"pair \(2, 2\) needs two images"),
        ({"caption": "."}, r"pair \(2, 1\) needs two images and a caption"),
    ],
)
def test_binding_faults(tmp_path, change, message):
    row = {"image_id": 2, "swapped_image_id": 1, "caption": "red"} | change
    with pytest.raises(ValueError, match=message):
        read_binding(write_json(tmp_path / "b.json", {"images": listed([1, 2]), "pairs": [row]}))
    with pytest.raises(ValueError, match="holds no pairs"):
        read_binding(write_json(tmp_path / "none.json", {"images": [], "pairs": []}))
