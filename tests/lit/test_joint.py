"""Joint training end to end at a small size: figures of both stages from one checkpoint, and what starts from it."""

import json

import pytest
import torch

from lit_blip2 import inference
from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.commands import ask
from lit_blip2.evaluation.items import read_items
from lit_blip2.lit import LitJoint, joint

pytestmark = pytest.mark.filterwarnings("ignore")
BRIEF = "--model.caption_max_new_tokens=5"
SCENES = "--trainer.callbacks+={class_path: lit_blip2.mini.scene_scores.SceneScores}"


@pytest.fixture(scope="module")
def joint_run(fit, shared):
    return shared(fit("mini_joint", BRIEF))


def metrics_of(run) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def test_a_run_has_the_figures_of_both_stages(joint_run):
    found = metrics_of(joint_run)
    names = {f"{kind}/{name}" for kind in ("loss", "train/loss") for name in ("itc", "itm", "itg", "lm", "total")}
    names = {name.replace("loss/", "loss_") if name.startswith("train") else name for name in names}
    names |= {"retrieval/itm_txt_r1", "queries/entropy", "binding/itc_accuracy", "vqa/accuracy", "caption/cider"}
    names |= {f"train/grad_norm_{name}" for name in ("itc", "itm", "itg", "lm")}
    names |= {"train/grad_cos_itc_itm", "train/grad_cos_itg_lm"}
    assert names <= found.keys()
    assert found["train/grad_norm_lm"] > 0 and abs(found["train/grad_cos_itg_lm"]) <= 1
    assert found["loss/total"] == pytest.approx(
        sum(found[f"loss/{name}"] for name in ("itc", "itm", "itg", "lm")), 0.02
    )


def test_resuming_gives_the_unbroken_run_and_watching_gradients_changes_nothing(fit, joint_run):
    middle = next((joint_run / "checkpoints").glob("*step=2.ckpt"))
    resumed = fit("mini_joint", BRIEF, f"--ckpt_path={middle}", "--model.grad_norms=false")
    expected, found = (read_checkpoint(run)["state_dict"] for run in (joint_run, resumed))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert not [name for name in metrics_of(resumed) if "grad_norm_" in name or "grad_cos" in name]


def test_one_checkpoint_is_tested_in_both_ways_asked_and_continued(fit, joint_run, own_copy, world):
    joint_run = own_copy(joint_run)
    fit("mini_joint", BRIEF, SCENES, f"--ckpt_path={joint_run}", command="test", runs=joint_run.parent.parent)
    found = metrics_of(joint_run)
    assert {"vqa/no_image", "llm/text_qa", "caption/exact", "retrieval/sum_img_r5"} <= found.keys()
    predictions = [json.loads(line) for line in (joint_run / "predictions.jsonl").read_text().splitlines()]
    assert {each["task"] for each in predictions} == {"caption", "vqa", "retrieval"}
    sure = json.loads((joint_run / "intervals.json").read_text())
    assert {"retrieval/itm_img_r1", "vqa/no_image", "caption/bleu4", "binding/itm_accuracy"} <= sure.keys()
    for name, row in sure.items():
        assert row["low"] - 1e-6 <= found[name] <= row["high"] + 1e-6, name
        of_some = name.startswith(("vqa/type_", "vqa/objects_", "llm/text_type_", "binding"))
        assert row["images"] == 6 or (row["images"] < 6 and of_some), name
    items = read_items(joint_run / "items.npz")
    for name, each in items.items():
        assert each.value() == pytest.approx(found[name], abs=1e-6), name
    image = str(next((world / "images" / "test").glob("*.png")))
    loaded = inference.load(joint_run)
    assert loaded.ask(image, "how many objects are there ?") and loaded.caption(image)
    assert loaded.similarity(image, ["a red star", "a ring"]).shape == (2,) and 0 < loaded.match(image, "a star") < 1
    made = loaded.features(image)
    torch.testing.assert_close(loaded.stage2.bridge.projection(made.queries), made.soft_prompt)
    assert type(LitJoint.load_from_checkpoint(joint_run).net) is type(loaded.net)

    start = [f"--model.init_from={joint_run}", "--trainer.max_steps=2", "--model.optimization.lr=1e-30"]
    after = fit("mini_opt", BRIEF, *start, "--model.optimization.min_lr=0")
    before, after = (read_checkpoint(run)["state_dict"] for run in (joint_run, after))
    taken = {key: value for key, value in after.items() if key.startswith("net.bridge.qformer.")}
    assert len(taken) > 30
    for key, value in taken.items():
        assert torch.equal(before[key.replace("net.bridge.", "net.")], value), key


def test_images_without_captions_are_described_and_not_retrieved(fit, joint_run, own_copy, world):
    run, bare = own_copy(joint_run), world / "annotations/bare.json"
    images = json.loads((world / "annotations/captions_test.json").read_text())["images"]
    bare.write_text(json.dumps({"images": images}))
    where = [f"--ckpt_path={run}", "--data.test=annotations/bare.json", "--data.vqa_test=null"]
    only = ["--data.binding_test=null", "--trainer.logger.version=bare"]
    fit("mini_joint", BRIEF, *where, *only, command="test", runs=run.parent.parent, pictures=True)
    found = run.parent / "bare"
    metrics = json.loads((found / "metrics.json").read_text())
    assert not [name for name in metrics if name.startswith(("retrieval", "loss", "caption/cider"))]
    assert metrics["evaluated/test_images"] == len(images)
    said = json.loads((found / "submission_captions.json").read_text())
    assert {each["image_id"] for each in said} == {image["id"] for image in images}


def test_without_the_language_model_it_is_stage_1(fit, stage1_run, world, capsys):
    """The same losses from the same start, and no figure, weight or file of the language model."""
    run = fit("mini_joint", BRIEF, SCENES, "--model.net.lm=null")
    found, expected = metrics_of(run), metrics_of(stage1_run)
    for name in ("train/loss_itc", "train/loss_itm", "train/loss_itg", "loss/total", "retrieval/itc_txt_r1"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert not [name for name in found if "lm" in name or "vqa" in name or "caption" in name]
    state, theirs = (read_checkpoint(each)["state_dict"] for each in (run, stage1_run))
    assert {key.replace("net.stage1.", "net.") for key in state} == theirs.keys()
    picture = next((world / "images" / "test").glob("*.png"))
    assert ask.main("caption", ["--checkpoint", str(run), str(picture)]) == 2
    assert "joint training with lm=null" in capsys.readouterr().err
    with pytest.raises(ValueError, match="use a stage-2 experiment"):
        fit("mini_joint", "--model.net.lm=null", f"--ckpt_path={run}", command="predict")


def test_the_language_model_alone_needs_no_text_half(fit, monkeypatch):
    """And gradients are looked at in one micro-batch of every second step."""
    looked, gradients = [], joint.gradients
    monkeypatch.setattr(
        joint, "gradients", lambda losses, *rest: looked.append(set(losses)) or gradients(losses, *rest)
    )
    off = [f"--model.net.{name}=null" for name in ("itc", "itm", "itg")]
    often = ["--trainer.log_every_n_steps=2", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=8"]
    run = fit("mini_joint", BRIEF, *off, *often)
    assert looked == [{"lm"}] * 2
    found = metrics_of(run)
    assert {"loss/lm", "vqa/accuracy", "train/grad_norm_lm"} <= found.keys()
    assert not [name for name in found if "itc" in name or "binding" in name or name == "loss/total"]
    keys = read_checkpoint(run)["state_dict"].keys()
    assert "net.qformer.query_tokens" in keys and not [key for key in keys if "text_mlp" in key or "stage1" in key]
