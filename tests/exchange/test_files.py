"""Weights in one file or in shards, of safetensors and of torch: read without running anything."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_blip2.exchange.files import read_weights


class Spy:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_files_of_torch_are_read_without_running_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(2)}}, "good.pth")
    assert read_weights(Path("good.pth"))["a"].tolist() == [1, 1]
    torch.save({"model": Spy()}, "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth cannot be read: it holds more than tensors"):
        read_weights(Path("bad.pth"))
    Path("cut.pth").write_bytes(Path("good.pth").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read: it is damaged"):
        read_weights(Path("cut.pth"))
    assert not Path("executed").exists()
    with pytest.raises(FileNotFoundError, match="no weights in"):
        read_weights(tmp_path)


def test_shards_are_joined_and_a_missing_one_is_named(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    assert {name: len(value) for name, value in read_weights(tmp_path).items()} == {"a": 1, "b": 2}
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}))
    with pytest.raises(ValueError, match=r"names c \(1 such\), which 2.safetensors does not hold"):
        read_weights(tmp_path)


def test_files_of_torch_of_the_old_kind_are_read_and_the_first_of_several_counts(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path)["a"].tolist() == [1, 1]
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "gone.bin"}}))
    assert read_weights(tmp_path)["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("placed", "words"),
    [
        ({"a": "1.safetensors", "b": "2.safetensors"}, r"2\.safetensors holds a \(1 such\), which .* does not place"),
        ({"a": "../1.safetensors"}, r"names '\.\./1\.safetensors': shards lie beside their index"),
        (["a"], "is no index of shards"),
    ],
)
def test_an_index_is_obeyed(tmp_path, placed, words):
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"a": torch.zeros(1), "b": torch.ones(2)}, tmp_path / "2.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(ValueError, match=words):
        read_weights(tmp_path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_weights_are_found_below_what_training_programs_wrap_them_in(wrapper, prefix, tmp_path):
    state = {f"{prefix}ln.weight": torch.ones(2), f"{prefix}module.bias": torch.zeros(2)}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "file.pth")
    assert read_weights(tmp_path / "file.pth").keys() == {"ln.weight", "module.bias"}


def test_a_prefix_that_some_names_have_is_a_part_of_them(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "file.pth")
    assert read_weights(tmp_path / "file.pth").keys() == {"module.a", "b"}


def test_a_file_with_two_models_says_which_is_read(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}}, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match="holds model and state_dict: the weights of model are read"):
        assert read_weights(tmp_path / "file.pth")["a"].item() == 0
