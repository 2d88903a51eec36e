"""Weights in one file or in shards, of safetensors and of torch: read without running anything."""

import json
import sys
from itertools import accumulate
from pathlib import Path
from types import ModuleType

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


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "_forward_module.model.", "net.",
            "_fsdp_wrapped_module.", "module.module."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "module"])
def test_weights_are_found_below_what_training_programs_wrap_them_in(wrapper, prefix, tmp_path):
    state = {f"{prefix}ln.weight": torch.ones(2), f"{prefix}module.bias": torch.zeros(2)}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "file.pth")
    assert read_weights(tmp_path / "file.pth").keys() == {"ln.weight", "module.bias"}


def test_wrappers_of_parts_are_left_out_of_names_too(tmp_path):
    names = ("Qformer._fsdp_wrapped_module.bert.w", "visual_encoder.blocks.0._checkpoint_wrapped_module.norm1.weight",
             "opt_proj._orig_mod.weight", "ln_vision.weight")  # fmt: skip
    state = {f"model.{name}": torch.ones(1) for name in names}
    plain = {"Qformer.bert.w", "visual_encoder.blocks.0.norm1.weight", "opt_proj.weight", "ln_vision.weight"}
    torch.save({"module": {"module": state}, "optimizer": None, "ds_version": "0.17"}, tmp_path / "mp_rank_00.pt")
    assert read_weights(tmp_path / "mp_rank_00.pt").keys() == plain
    save_file(state, tmp_path / "model.safetensors")
    assert read_weights(tmp_path).keys() == plain == read_weights(tmp_path / "model.safetensors").keys()


def test_two_weights_of_one_name_are_refused(tmp_path):
    torch.save({"a._orig_mod.b": torch.ones(1), "a.b": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth holds a\.b twice, once as a\.b: save the weights of one model"):
        read_weights(tmp_path / "file.pth")


SHAPES = [{"ln_vision.weight": torch.Size([4])}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"Qformer._fsdp_wrapped_module._flat_param": torch.ones(9)}}, "flat parameters: .*FULL_STATE_DICT"),
        ({"state_dict": {"flat_param": torch.ones(9)}}, "flat parameters: .*FULL_STATE_DICT"),
        ({"module": {"ln_vision.weight": torch.ones(0)}, "param_shapes": SHAPES}, "not hold all .*zero_to_fp32"),
        ({"module": {"ln_vision.weight": torch.ones(4)}, "mp_world_size": 2}, "not hold all .*zero_to_fp32"),
        ({"optimizer_state_dict": {"zero_stage": 2}, "ds_version": "0.17"}, "no state dict.*zero_to_fp32"),
    ],
)
def test_parts_of_weights_are_refused_with_the_way_to_join_them(tmp_path, content, words):
    torch.save(content, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=words) as error:
        read_weights(tmp_path / "part.pt")
    assert str(error.value).startswith(str(tmp_path / "part.pt")) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["zero_to_fp32.py", "global_step10/mp_rank_00_model_states.pt"], "zero_to_fp32.py . OUT"),
        (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"], "zero_to_fp32.py . OUT"),
        (["mp_rank_00_model_states.pt"], "give its mp_rank_00_model_states.pt"),
        (["__0_0.distcp", ".metadata"], "dcp_to_torch FOLDER FILE"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "dcp_to_torch FOLDER FILE"),
    ],
)
def test_folders_of_parts_tell_how_to_join_them(tmp_path, names, words):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=words):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("module", "words"), [("deepspeed.runtime.fp16", "zero_to_fp32"), ("torch.distributed.made_up", "FULL_STATE_DICT")]
)
def test_a_refused_class_tells_who_wrote_the_file(tmp_path, monkeypatch, module, words):
    for name in accumulate(module.split("."), "{}.{}".format):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or ModuleType(name))
    made = type("LossScaler", (), {"__module__": module})
    sys.modules[module].LossScaler = made
    torch.save({"module": {"a": torch.ones(1)}, "loss_scaler": made()}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=f"more than tensors.*{words}"):
        read_weights(tmp_path / "file.pt")


def test_a_prefix_that_some_names_have_is_a_part_of_them(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "file.pth")
    assert read_weights(tmp_path / "file.pth").keys() == {"module.a", "b"}


def test_a_file_with_two_models_says_which_is_read(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}}, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match="holds model and state_dict: the weights of model are read"):
        assert read_weights(tmp_path / "file.pth")["a"].item() == 0
