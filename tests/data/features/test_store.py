import json
import pickle
import time

import numpy as np
import pytest
import torch

from lit_blip2.contents import DataError
from lit_blip2.data.features.store import FeatureStore, gathered
from lit_blip2.data.images import UnreadableImageError
from lit_blip2.pixels import UNNOTED
from tests.data.cached import keys_of, write_store

IDS = [50, 10, 40, 20, 30]


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(5, 2, 3, 2)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, values):
    write_store(tmp_path / "f", IDS, values, {"encoder": "vit", "sizes": [1, 2]}, views=2)
    return tmp_path / "f"


def test_rows_come_back_in_the_order_asked_from_every_shard(folder, values):
    rows = FeatureStore(folder).rows([30, 50, 30, 10])
    assert rows.dtype == torch.float16
    assert torch.equal(rows, torch.tensor(values[[4, 0, 4, 1], 0]).half())
    assert len(FeatureStore(folder)) == 5


def test_images_that_are_missing_and_images_that_were_other_files(folder):
    keys = keys_of(["000000000010.png", "000000000011.png", "another.png"])
    missing, others = FeatureStore(folder).missing(np.array([10, 11, 50]), keys)
    assert missing.tolist() == [11] and others.tolist() == [50]


def test_each_view_is_drawn_equally_often_with_one_number_of_the_generator(folder, values):
    store, rng, twin = FeatureStore(folder), np.random.default_rng(0), np.random.default_rng(0)
    views = torch.tensor(values[3]).half()
    drawn = gathered([store.drawn(20, rng) for _ in range(200)])
    second = [torch.equal(view, views[1]) for view in drawn]
    assert 80 < sum(second) < 120 and sum(torch.equal(view, views[0]) for view in drawn) == 200 - sum(second)
    twin.random(200)
    assert rng.random() == twin.random()
    assert torch.equal(store.rows([20, 20], [1, 0]), views[[1, 0]])


def test_rows_are_copies(folder):
    store = FeatureStore(folder)
    store.rows([10]).zero_()
    assert store.rows([10]).abs().sum() > 0


def test_missing_ids_are_named(folder):
    with pytest.raises(KeyError, match=r"no features of image 7 \(2 missing\)"):
        FeatureStore(folder).rows([10, 7, 8])


def test_an_image_that_could_not_be_read_has_no_features(tmp_path, values):
    write_store(tmp_path / "f", IDS, values, {}, views=2, unreadable=[20])
    store = FeatureStore(tmp_path / "f")
    with pytest.raises(UnreadableImageError, match="20 is empty") as error:
        store.rows([50, 20])
    with pytest.raises(UnreadableImageError, match="20 is empty"):
        store.drawn(20, np.random.default_rng(0))
    assert error.value.reason == "empty" and store.rows([50, 30]).shape == (2, 3, 2)


def test_a_pickled_store_carries_no_features(folder):
    blob = pickle.dumps(FeatureStore(folder))
    assert len(blob) < 500 and torch.equal(pickle.loads(blob).rows([20]), FeatureStore(folder).rows([20]))


def test_check_lists_exactly_the_fields_that_differ(folder):
    store = FeatureStore(folder)
    store.check({"encoder": "vit", "sizes": (1, 2)})
    with pytest.raises(ValueError) as error:
        store.check({"encoder": "eva", "sizes": [1, 2], "norm": False})
    message = str(error.value)
    assert "encoder: stored 'vit', expected 'eva'" in message
    assert "norm: stored 'absent', expected False" in message and "sizes" not in message


def test_a_store_that_is_not_whole_says_how_to_go_on(folder):
    (folder / "00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 shards of features: run the .* again"):
        FeatureStore(folder)


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no cached features in .*: write them with"):
        FeatureStore(tmp_path)


def test_features_that_do_not_say_how_their_images_looked_had_clips(folder):
    store = FeatureStore(folder)
    store.check({"encoder": "vit", "sizes": [1, 2]} | UNNOTED)
    with pytest.raises(
        ValueError, match=r"mean: stored \[0\.48.*\], expected \[0\.5, 0\.5, 0\.5\]\..*--data\.features=null"
    ):
        store.check({"encoder": "vit", "sizes": [1, 2]} | UNNOTED | {"mean": [0.5, 0.5, 0.5]})


@pytest.mark.parametrize(
    "change", [{"images": 10**15, "shard": 1}, {"images": 10**15}, {"images": 10**15, "tokens": 10**15}]
)
def test_more_images_than_the_disk_holds_are_refused_at_once(folder, change):
    file, began = folder / "features.json", time.process_time()
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"layout": about["layout"] | change}))
    with pytest.raises(DataError, match=r"image_ids\.npy is not of 1000000000000000 images"):
        FeatureStore(folder)
    assert time.process_time() - began < 1


def test_a_section_that_is_not_complete_says_how_much_of_it_is_there(folder):
    (folder / "00000.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds \d of \d shards of features: run the"):
        FeatureStore(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("shard", 10**30), ("width", 10**30), ("tokens", 2**50), ("shard", 2**60), ("crc32", [1]), ("crc32", "x")],
)
def test_a_description_of_no_features_is_refused(folder, name, value):
    about = json.loads((folder / "features.json").read_text())
    where = about if name == "crc32" else about["layout"]
    where[name] = value
    (folder / "features.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"features\.json(: crc32 is a| tells no layout)|safetensors is of another"):
        FeatureStore(folder).rows([50])
