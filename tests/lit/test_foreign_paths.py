"""A checkpoint from somebody else does not have ModelCheckpoint remove files of the user's."""

import copy
import os

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_blip2.lit.foreign_paths import forget_foreign_paths, leads_out


@pytest.fixture
def callback(tmp_path):
    return ModelCheckpoint(dirpath=tmp_path / "runs/one/checkpoints", monitor="loss/itc", save_top_k=1)


def checkpoint(callback, path: str) -> dict:
    state = callback.state_dict() | {"best_k_models": {path: torch.tensor(1e9)}, "kth_best_model_path": path}
    return {"callbacks": {callback.state_key: state | {"best_model_path": path, "last_model_path": ""}}}


@pytest.mark.parametrize(
    "path", ["local:///home/me/thesis", "s3://bucket/x.ckpt", "{dirpath}/../../../thesis", "simplecache::https://x/y"]
)
def test_paths_that_lead_out_are_forgotten(callback, path):
    given = checkpoint(callback, path.format(dirpath=callback.dirpath))
    with pytest.warns(UserWarning, match="among its best ones, which leads out of"):
        forget_foreign_paths([callback], given)
    callback.load_state_dict(given["callbacks"][callback.state_key])
    assert callback.best_k_models == {} and callback.best_model_path == callback.kth_best_model_path == ""


def test_a_link_leads_out_and_what_is_in_the_folder_or_plainly_elsewhere_stays(callback, tmp_path):
    os.makedirs(callback.dirpath)
    (tmp_path / "thesis").mkdir()
    os.symlink(tmp_path / "thesis", f"{callback.dirpath}/best")
    assert leads_out(f"{callback.dirpath}/best/a.ckpt", callback.dirpath)
    for path in (f"{callback.dirpath}/a.ckpt", str(tmp_path / "elsewhere/a.ckpt")):
        given = checkpoint(callback, path)
        before = copy.deepcopy(given)
        forget_foreign_paths([callback], given)
        assert given == before
    assert not leads_out("s3://mine/checkpoints/a.ckpt", "s3://mine/checkpoints/") and not leads_out("", "s3://mine")
    assert leads_out("s3://mine/checkpoints-of-others/a.ckpt", "s3://mine/checkpoints")


def test_states_of_another_kind_are_left_to_their_readers(callback):
    for given in ({}, {"callbacks": None}, {"callbacks": {callback.state_key: "x"}}):
        forget_foreign_paths([callback], given)
