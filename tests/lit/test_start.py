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


def test_a_checkpoint_of_the_other_stage_is_told_by_its_class(fit, stage1_run):
    said = "is a checkpoint of LitStage1, and this experiment's model is LitStage2"
    with pytest.raises(ValueError, match=said):
        fit("mini_opt", f"--ckpt_path={stage1_run}", "--model.init_from=null")


@pytest.mark.slow
def test_stage_2_goes_on_from_stage_2_and_may_train_its_encoder(fit, stage1_run):
    first = fit("mini_opt", f"--model.init_from={stage1_run}", *STILL)
    assert equal(fit("mini_opt", f"--model.init_from={first}", *STILL), first)
    trains = ["--model.net.vision.frozen=false", "--data.features=null"]
    second = fit("mini_opt", f"--model.init_from={first}", *trains, *STILL)
    assert any(key.startswith("net.vision.") for key in read_checkpoint(second)["state_dict"])
    third = fit("mini_opt", f"--model.init_from={second}", *trains, *STILL)
    assert equal(third, second)
    with pytest.raises(ValueError, match="trained its image encoder too, and this run would go on with another one"):
        fit("mini_opt", f"--model.init_from={second}")


def without_settings(run, tmp_path):
    """The last checkpoint of a run as it was written before settings were kept."""
    contents, file = read_checkpoint(run), tmp_path / "old.ckpt"
    del contents["settings"]
    torch.save(contents, file)
    return file


def test_what_shapes_do_not_show_must_be_the_same(fit, stage1_run, tmp_path):
    heads = "--model.net.qformer.heads=8"
    said = r"heads 4, here 8.*qformer\.layers\.\*\.cross\.heads 4, here 8"
    for start in (stage1_run, without_settings(stage1_run, tmp_path)):
        with pytest.raises(ValueError, match=f"init_from=.*{said}.*allow_different"):
            fit("mini_stage1", f"--model.init_from={start}", heads)
    with pytest.raises(ValueError, match=f"{said}. Use those settings$"):  # going on differs in nothing
        fit("mini_stage1", f"--ckpt_path={stage1_run}", heads, "--model.allow_different=[heads]")
    with pytest.raises(ValueError, match=r"bridge\.qformer\.layers\.\*\.attention\.heads 4, here 2"):
        fit("mini_opt", f"--model.init_from={stage1_run}", "--model.net.bridge.qformer.heads=2")
    fit("mini_stage1", f"--model.init_from={stage1_run}", heads, "--model.allow_different=[heads]", *STILL)


@pytest.mark.slow
def test_an_argument_of_the_encoder_that_spells_out_a_default_is_the_same(fit, stage1_run):
    default = "--model.net.vision.model_args.mlp_ratio=4.0"
    first = fit("mini_stage1", f"--model.init_from={stage1_run}", default, *STILL)
    assert equal(first, stage1_run)
    assert equal(fit("mini_stage1", f"--ckpt_path={first}", *STILL[:2], "--trainer.max_steps=3"), first)
    other = ["--model.net.vision.model_args.act_layer=relu", "--data.features=null"]
    for start in (f"--model.init_from={stage1_run}", f"--ckpt_path={first}"):
        with pytest.raises(ValueError, match=r"vision\.model_args .*, here .*'relu'"):
            fit("mini_stage1", start, *STILL[:2], "--trainer.max_steps=3", *other)
    drops = "--model.net.vision.model_args.drop_path_rate=0.1"
    with pytest.raises(ValueError, match="the rest of the run would train otherwise"):
        fit("mini_stage1", f"--ckpt_path={first}", *STILL[:2], "--trainer.max_steps=3", drops)


def test_images_of_another_size_are_named_on_purpose(fit, stage1_run, caplog):
    smaller = ["--model.net.vision.image_size=32", "--data.image_size=32", "--data.features=null"]
    with pytest.raises(ValueError, match=r"image_size 64, here 32"):
        fit("mini_opt", f"--model.init_from={stage1_run}", *smaller)
    with caplog.at_level("INFO"):
        run = fit(
            "mini_opt", f"--model.init_from={stage1_run}", *smaller, "--model.allow_different=[image_size]", *STILL
        )
    assert "image_size 64, here 32, as allow_different says" in caplog.text
    assert read_checkpoint(run)["settings"]["image_size"] == 32


def test_the_tokenizer_of_the_text_half_is_compared(fit, stage1_run, tmp_path):
    kept = read_checkpoint(stage1_run)["settings"]
    assert len(kept["tokenizer.digest"]) == 16
    contents, file = read_checkpoint(stage1_run), tmp_path / "other.ckpt"
    contents["settings"]["tokenizer.digest"] = "of other words"
    torch.save(contents, file)
    with pytest.raises(ValueError, match=r"tokenizer\.digest of other words, here"):
        fit("mini_stage1", f"--model.init_from={file}")
