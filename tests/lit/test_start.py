"""Runs that go on from other runs: what is taken over, what is left, what is refused."""

import pytest
import torch

from lit_blip2.checkpoint import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
STILL = ["--model.optimization.lr=1e-12", "--model.optimization.min_lr=0", "--trainer.max_steps=2"]


def equal(run, start, *left_out: str) -> bool:
    """Whether all that the run trained is as it was at its start, and nothing else was there but what was left."""
    ours, theirs = read_checkpoint(run)["state_dict"], read_checkpoint(start)["state_dict"]
    theirs = {key: value for key, value in theirs.items() if not key.startswith(left_out)}
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in ours)


def test_stage_1_goes_on_without_an_objective_and_says_what_it_left(fit, stage1_run, caplog):
    start = f"--model.init_from={stage1_run}"
    run = fit("mini_stage1", start, "--model.net.itg=null", *STILL)
    assert equal(run, stage1_run, "net.itg.")
    assert "left net.itg.bias, net.itg.norm.bias" in caplog.text and "whose objectives are off" in caplog.text
    with pytest.raises(ValueError, match=r"does not fit this model: missing net\.itg\.bias"):
        fit("mini_stage1", f"--model.init_from={run}")
    with pytest.raises(ValueError, match="training starts from one, set one to null"):
        fit("mini_stage1", start, "--model.bert=somewhere")


def test_stage_2_goes_on_from_stage_2_and_may_train_its_encoder(fit, stage1_run):
    first = fit("mini_opt", f"--model.init_from={stage1_run}", *STILL)
    assert equal(fit("mini_opt", f"--model.init_from={first}", *STILL), first)
    trains = ["--model.net.vision.frozen=false", "--data.features=null"]
    second = fit("mini_opt", f"--model.init_from={first}", *trains, *STILL)
    assert any(key.startswith("net.vision.") for key in read_checkpoint(second)["state_dict"])
    third = fit("mini_opt", f"--model.init_from={second}", *trains, *STILL)
    assert equal(third, second)
    with pytest.raises(ValueError, match="trained its image encoder too, and this run would go on with the original"):
        fit("mini_opt", f"--model.init_from={second}")
