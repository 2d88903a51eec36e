"""What a checkpoint says of its run."""

import pytest
import torch
import yaml
from torch import nn

from lit_blip2.checkpoint import carried, check_fits, check_statistics, read_checkpoint, trainable_state
from lit_blip2.contents import DataError
from lit_blip2.pixels import UNNOTED


def checkpoint(vision: dict, **more) -> dict:
    return {"config": yaml.safe_dump({"model": {"init_args": {"net": {"vision": vision}}}})} | more


def test_a_run_that_does_not_note_how_its_images_looked_had_clips(tmp_path):
    """Whatever its encoder would be given today."""
    file = tmp_path / "last.ckpt"
    for old in ({}, {"settings": {"vision.name": "x"}}):
        vision = carried(checkpoint({"name": "vit_small_patch14_dinov2", "std": [0.1] * 3}, **old), file, ()).vision
        assert vision == {"name": "vit_small_patch14_dinov2"} | UNNOTED | {"std": [0.1] * 3}
    noted = checkpoint({"name": "x", "mean": None}, settings={"vision.mean": [0.5] * 3})
    assert carried(noted, file, ()).vision == {"name": "x", "mean": None}
    assert carried({"config": ""}, file, ()).settings == {}


def test_all_is_kept_but_what_frozen_models_read_from_files():
    """Also a part of somebody's own that does not train, and what is frozen for a while."""
    net = nn.ModuleDict({"language": nn.ModuleDict({"w": nn.Linear(1, 1), "lora_A": nn.Linear(1, 1)})})
    net["language"].frozen = True
    net["own"] = nn.Linear(1, 1)
    net["language"].requires_grad_(False)
    net["own"].requires_grad_(False)
    assert set(trainable_state(net)) == {"language.lora_A.weight", "language.lora_A.bias", "own.weight", "own.bias"}
    net["language"]["w"].bias.requires_grad_(True)
    assert "language.w.bias" in trainable_state(net) and "language.w.weight" not in trainable_state(net)


def test_running_statistics_that_no_checkpoint_would_hold_are_refused():
    bridge = nn.ModuleDict({"bridge": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))})
    with pytest.raises(ValueError, match=r"net\.bridge\.1, a BatchNorm1d, keeps running statistics.*use LayerNorm"):
        check_statistics(bridge)
    check_statistics(nn.ModuleDict({"encoder": bridge["bridge"].eval(), "norm": nn.LayerNorm(4)}))
    check_statistics(nn.BatchNorm1d(4, track_running_stats=False))


def test_a_checkpoint_of_more_numbers_than_its_file_is_refused(tmp_path):
    """A container that holds itself comes to an end, and a tensor that repeats a little is read."""
    inner: list = [torch.ones(2).expand(100, 2)]
    held = {"state_dict": {"a": torch.ones(3)}, "settings": {}, "more": {"b": inner}}
    inner.append(inner)
    torch.save(held, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["more"]["b"][0].shape == (100, 2)
    inner.append(torch.zeros(1).expand(10**12))
    torch.save(held, tmp_path / "a.ckpt")
    with pytest.raises(DataError, match=r"a\.ckpt: more\.b\.2 is \(1000000000000,\), and the file holds 1 numbers"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state_dict": None}, "has no state_dict"),
        ({"state_dict": {"a": 3}}, "state_dict holds something else than tensors"),
        ({"callbacks": {"EMA": 5}}, "callbacks of the checkpoint have states that are none"),
        ({"global_step": "x", "loops": 4}, "loops, global_step of the checkpoint have the wrong type"),
        ({"validated_step": 2**60}, r"validated_step \d+ is no number of steps"),
    ],
)
def test_parts_of_another_type_are_refused(tmp_path, change, words):
    torch.save({"state_dict": {"a": torch.ones(3)}} | change, tmp_path / "a.ckpt")
    with pytest.raises(DataError, match=rf"a\.ckpt.*{words}"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "change", [torch.Tensor.bool, torch.Tensor.char, lambda old: old.cfloat(), torch.Tensor.to_sparse]
)
def test_weights_of_another_kind_of_numbers_do_not_fit(change):
    """They would be cast: of truth values 0 and 1 are left."""
    wanted = {"a": torch.rand(2, 3)}
    with pytest.raises(
        ValueError, match=r"does not fit this model: a is of torch\.\w+, the model's is of torch\.float32"
    ):
        check_fits({"a": change(wanted["a"])}, wanted, "it")
    check_fits({"a": wanted["a"].bfloat16()}, wanted, "it")
