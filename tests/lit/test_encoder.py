"""Stage 1 on live images: from the encoder's last block, and with an encoder that trains."""

import json

import pytest
import safetensors.torch
import torch

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.commands.convert import main
from lit_blip2.inference import load

pytestmark = pytest.mark.filterwarnings("ignore")
LIVE = "--data.features=null"
WEIGHTS = "lit_blip2/mini/weights/vit.safetensors"


def encoder_weights(run) -> dict[str, torch.Tensor]:
    prefix = "net.vision.encoder."
    state = read_checkpoint(run)["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def trained(fit):
    """A run whose encoder trains, validated once more from its checkpoint."""
    arguments = ["--model.net.vision.frozen=false", LIVE, "--trainer.val_check_interval=4"]
    run = fit("mini_stage1", *arguments)
    fit("mini_stage1", *arguments, f"--ckpt_path={run}", command="validate", runs=run.parent.parent)
    return run


def test_the_last_block_trains_and_is_tested(fit, stage1_run):
    """Its features are others: equal seeds and data give other losses."""
    arguments = ["--model.net.vision.drop_last_blocks=0", LIVE, "--trainer.val_check_interval=4"]
    run = fit("mini_stage1", *arguments)
    fit("mini_stage1", *arguments, f"--ckpt_path={run}", command="test", runs=run.parent.parent)
    ours, theirs = (json.loads((each / "metrics.json").read_text()) for each in (run, stage1_run))
    assert ours.keys() >= {"retrieval/itm_txt_r1", "binding/itc_accuracy", "loss/itg"}
    assert ours["train/loss_itc"] != pytest.approx(theirs["train/loss_itc"], rel=1e-3)
    assert not encoder_weights(run)


def test_kept_features_of_another_block_are_refused(fit):
    with pytest.raises(ValueError, match="drop_last_blocks: stored 1, expected 0"):
        fit("mini_stage1", "--model.net.vision.drop_last_blocks=0")


def test_a_trained_encoder_is_in_its_checkpoint(trained):
    """Every weight of the blocks that are used has moved, by no more than the learning rate allows; dropped blocks and
    the final norm are not there."""
    before, after = safetensors.torch.load_file(WEIGHTS), encoder_weights(trained)
    assert before.keys() - after.keys() == {key for key in before if key.startswith(("blocks.3.", "norm.", "head."))}
    for key, value in after.items():
        assert 0 < (value - before[key]).abs().max() < 0.1, key


def test_evaluation_sees_with_the_trained_encoder(trained):
    during, again = (json.loads((trained / name).read_text()) for name in ("metrics.json", "validate.json"))
    assert again.keys() >= {"loss/itc", "loss/itm", "loss/itg", "retrieval/itm_txt_r1", "binding/itc_accuracy"}
    for name in again:
        assert again[name] == pytest.approx(during[name], rel=1e-5), name


def test_stage2_starts_from_a_stage1_that_trained_its_encoder_with_that_encoder_alone(trained, fit, tmp_path):
    start = f"--model.init_from={trained}"
    with pytest.raises(ValueError, match=r"trained its image encoder too.* export .* --to timm .*net\.vision\.weights"):
        fit("mini_opt", start)
    folder = tmp_path / "encoder"
    assert main("export", [f"--checkpoint={trained}", "--to=timm", f"--out={folder}"]) == 0
    run = fit("mini_opt", start, f"--model.net.vision.weights={folder}/model.safetensors", LIVE)
    held, wanted = load(run).net.vision.encoder.state_dict(), encoder_weights(trained)
    assert wanted.keys() <= held.keys() and all(torch.equal(held[name], wanted[name]) for name in wanted)
