import pickle

import numpy as np
import pytest
import torch

from lit_blip2.data.features import FeatureStore, write_features


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, values):
    write_features(
        tmp_path / "f", [50, 10, 40, 20, 30], [values[:2], values[2:]], 5, {"encoder": "vit", "sizes": (1, 2)}
    )
    return tmp_path / "f"


def test_rows_come_back_in_the_order_asked(folder, values):
    rows = FeatureStore(folder).rows([30, 50, 30])
    assert rows.dtype == torch.float16
    assert torch.equal(rows, torch.tensor(values[[4, 0, 4]]).half())
    assert len(FeatureStore(folder)) == 5 and FeatureStore(folder).missing([10, 11, 11]).tolist() == [11]


def test_rows_are_copies(folder):
    store = FeatureStore(folder)
    store.rows([10]).zero_()
    assert store.rows([10]).abs().sum() > 0


def test_missing_ids_are_named(folder):
    with pytest.raises(KeyError, match=r"no features of image 7 \(2 missing\)"):
        FeatureStore(folder).rows([10, 7, 8])


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


def faults(values):
    huge = values * 1e9
    return {
        "image id 3 is given 2 times": ([1, 3, 3, 4, 5], [values], 5),
        "5 image ids for 4 images": ([1, 2, 3, 4, 5], [values], 4),
        "3 rows of features for 5 images": ([1, 2, 3, 4, 5], [values[:3]], 5),
        "at least 8 rows of features for 5": ([1, 2, 3, 4, 5], [values, values[:3]], 5),
        "features of image 1 are not finite in float16": ([1, 2, 3, 4, 5], [huge], 5),
    }


def test_what_fails_leaves_nothing_behind(tmp_path, values):
    for message, arguments in faults(values).items():
        with pytest.raises(ValueError, match=message):
            write_features(tmp_path / "out", *arguments, {})
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_not_overwritten(folder, values):
    with pytest.raises(FileExistsError, match="remove it"):
        write_features(folder, [1, 2, 3, 4, 5], [values], 5, {})


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"fingerprint\.json"):
        FeatureStore(tmp_path)
