"""Runs of both stages end to end at a small size: what they leave behind, resuming, and what does not fit."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import OPTForCausalLM

from benchmarks import false_negatives
from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.data.features import store
from lit_blip2.data.shards.packing import pack
from lit_blip2.evaluation.pope import yes_or_no
from lit_blip2.evaluation.rules import read_rules
from lit_blip2.lit.callbacks import MetricsFile
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives import itm
from lit_blip2.runs import PLANNED
from tests.lit.conftest import digests

pytestmark = pytest.mark.filterwarnings("ignore")


def test_stage1_leaves_its_figures(stage1_run):
    metrics = json.loads((stage1_run / "metrics.json").read_text())
    for name in (
        "loss/itc", "loss/itm", "loss/itg", "loss/total", "train/loss_itc", "retrieval/itc_txt_r1",
        "retrieval/itm_img_r10", "retrieval/sum_txt_r5", "binding/itc_accuracy", "binding/itm_accuracy",
    ):  # fmt: skip
        assert isinstance(metrics[name], float), name
    assert (stage1_run / "config.yaml").exists() and list(stage1_run.glob("events.out.tfevents*"))


def test_a_checkpoint_holds_what_trains_and_the_config(stage1_run):
    checkpoint = read_checkpoint(stage1_run)
    assert not [key for key in checkpoint["state_dict"] if "vision." in key.replace("ln_vision", "")]
    assert sum(v.numel() for v in checkpoint["state_dict"].values()) < 3e6
    config = yaml.safe_load(checkpoint["config"])
    assert config["model"]["init_args"]["net"]["init_args"]["qformer"]["init_args"]["num_queries"] == 24
    assert "hyper_parameters" not in checkpoint


def test_an_objective_that_is_off_leaves_no_figures_and_no_weights(fit):
    run = fit("mini_stage1", "--model.net.itm=null", "--model.net.itg=null")
    metrics = json.loads((run / "metrics.json").read_text())
    assert "loss/itc" in metrics
    assert not [name for name in metrics if "itm" in name or "itg" in name or "sum" in name]
    assert not [key for key in read_checkpoint(run)["state_dict"] if key.startswith(("net.itm", "net.itg"))]


def test_a_fourth_objective_is_a_line_of_yaml(fit, stage1_run):
    """It is trained, validated and counted; a run without it leaves its head, and says so."""
    more = (
        "--model.net.more_objectives={mlm: {class_path: tests.objectives.masked_language.MLM, init_args: {share: .3}}}"
    )
    run = fit("mini_stage1", "--model.net.itm=null", more)
    metrics, state = json.loads((run / "metrics.json").read_text()), read_checkpoint(run)["state_dict"]
    assert {"loss/mlm", "loss/itc", "train/loss_mlm"} <= metrics.keys() and "loss/itm" not in metrics
    total = sum(metrics[f"loss/{name}"] for name in ("itc", "itg", "mlm"))
    assert metrics["loss/total"] == pytest.approx(total, rel=1e-5)
    assert {name for name in state if ".mlm." in name} == {"net.mlm.head.weight", "net.mlm.head.bias"}
    fit("mini_stage1", "--model.net.itm=null", f"--model.init_from={run}", "--trainer.max_steps=2")


def test_a_run_without_hard_negatives_draws_them_uniformly(fit, monkeypatch):
    """Training and validation give the draw no similarities, though ITC has some; and nothing else is gone."""
    given, draw = [], itm.draw_negatives
    monkeypatch.setattr(itm, "draw_negatives", lambda logits, *rest: given.append(logits) or draw(logits, *rest))
    run = fit("mini_stage1", "--model.net.itm.hard_negatives=false", "--trainer.max_steps=2")
    assert len(given) >= 2 * 2 and not any(logits.any() for logits in given)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() >= {"loss/itc", "loss/itm", "train/loss_itm", "retrieval/itm_txt_r1", "binding/itm_accuracy"}


def test_a_resumed_run_begins_with_hard_negatives_at_their_step(fit, monkeypatch):
    hard, before = {}, itm.ITM._draws_hard
    monkeypatch.setattr(itm.ITM, "_draws_hard", lambda self, step: hard.setdefault(step, before(self, step)))
    whole = fit("mini_stage1", "--model.net.itm.hard_negatives_from=3")
    assert hard.pop(None) and hard == {step: step >= 3 for step in range(len(hard))} and any(hard.values())
    middle = next((whole / "checkpoints").glob("*step=2.ckpt"))
    resumed = fit("mini_stage1", "--model.net.itm.hard_negatives_from=3", f"--ckpt_path={middle}")
    expected, found = (read_checkpoint(run)["state_dict"] for run in (whole, resumed))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("experiment", ["mini_stage1", "mini_opt"])
def test_resuming_gives_the_unbroken_run(experiment, fit, stage1_run):
    start = [] if experiment == "mini_stage1" else [f"--model.init_from={stage1_run}"]
    whole = fit(experiment, *start)
    middle = next((whole / "checkpoints").glob("*step=2.ckpt"))
    gone = [] if experiment == "mini_stage1" else ["--model.init_from=gone"]  # the checkpoint holds all of it
    resumed = fit(experiment, *gone, f"--ckpt_path={middle}")
    expected, found = (read_checkpoint(run)["state_dict"] for run in (whole, resumed))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_several_test_sets_of_one_run_keep_apart(fit, stage1_run, own_copy, tmp_path):
    """A file behind the experiment that says what to test on names the folder."""
    stage1_run = own_copy(stage1_run)
    (tmp_path / "few.yaml").write_text("model: {init_args: {rerank: 2}}\ndata: {init_args: {binding_test: null}}\n")
    before = (stage1_run / "metrics.json").read_text()
    where = [f"--ckpt_path={stage1_run}", "--config", str(tmp_path / "few.yaml")]
    fit("mini_stage1", *where, command="test", runs=stage1_run.parent.parent)
    assert (stage1_run / "few/metrics.json").exists() and (stage1_run / "few/items.npz").exists()
    assert (stage1_run / "metrics.json").read_text() == before
    rows = [json.loads(line) for line in (stage1_run / "few/predictions.jsonl").read_text().splitlines()]
    metrics = json.loads((stage1_run / "few/metrics.json").read_text())
    for mode in ("itc", "itm", "sum"):
        images = [row for row in rows if row["mode"] == mode and "image_id" in row]
        first = [row["texts"][0] // 1000 == row["image_id"] for row in images]
        assert sum(first) / len(first) == pytest.approx(metrics[f"retrieval/{mode}_txt_r1"])
        texts = [row for row in rows if row["mode"] == mode and "text" in row]
        first = [row["image_ids"][0] == row["text"] // 1000 for row in texts]
        assert sum(first) / len(first) == pytest.approx(metrics[f"retrieval/{mode}_img_r1"])


def test_stage2_starts_from_stage1_and_answers(fit, stage1_run):
    run = fit("mini_opt", f"--model.init_from={stage1_run}")
    fit("mini_opt", f"--ckpt_path={run}", command="test", runs=run.parent.parent)
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("loss/lm", "vqa/accuracy", "vqa/mean_over_types", "vqa/no_image", "caption/cider", "caption/bleu4"):
        assert isinstance(metrics[name], float), name
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert {each["task"] for each in predictions} == {"caption", "vqa"}
    assert len({each["image_id"] for each in predictions if each["task"] == "caption"}) == 6


def test_tests_by_other_rules_keep_apart(fit, stage1_run, own_copy, caplog):
    """The first test's files stay; the second's stand in a folder that is named after what differs."""
    run = own_copy(stage1_run)
    few = [f"--ckpt_path={run}", "--data.test=null"]
    names = ("metrics.json", "decoding.json", "items.npz", "intervals.json")
    given = {"": [], "rerank=2": ["--model.rerank=2"], "precision=bf16-mixed": ["--trainer.precision=bf16-mixed"]}
    for place in ("", "rerank=2", "precision=bf16-mixed", "", "rerank=2"):
        others = {file: file.read_bytes() for file in run.rglob("*.*") if file.parent != run / place}
        arguments = given[place]
        fit("mini_stage1", *few, *arguments, command="test", runs=run.parent.parent)
        assert {file: file.read_bytes() for file in others} == others
        assert {name for name in names if (run / place / name).exists()} == {*names}
    assert f"version_0 holds a test by other rules (rerank: 3 and 2): results go to {run / 'rerank=2'}" in caplog.text
    assert read_rules(run)["rerank"] == 3 and read_rules(run / "rerank=2")["rerank"] == 2


def test_an_encoder_decoder_learns_prefixes_and_answers(fit, stage1_run, t5_folder):
    prefixes = "--model.net.objective={class_path: lit_blip2.objectives.lm.PrefixLM}"
    run = fit("mini_opt", f"--model.init_from={stage1_run}", prefixes, language=t5_folder)
    fit("mini_opt", f"--ckpt_path={run}", prefixes, command="test", runs=run.parent.parent, language=t5_folder)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"loss/lm", "vqa/mean_over_types", "vqa/no_image", "caption/cider"} <= metrics.keys()


@pytest.mark.slow
def test_a_trained_language_model_stands_in_the_checkpoint(fit, stage1_run, opt_folder, world, tmp_path):
    """It has moved, resumes exactly (its dropout too), and a test on the validation files finds validation's loss."""
    trained = [f"--model.init_from={stage1_run}", "--model.net.language.frozen=false"]
    trained += ["--model.optimization.lr_scale={net.bridge.projection: 5, net.language: 0.5}"]
    whole = fit("mini_opt", *trained)
    state, before = read_checkpoint(whole)["state_dict"], OPTForCausalLM.from_pretrained(opt_folder)
    for name, weight in before.named_parameters():  # tied weights once
        assert not torch.equal(state.pop(f"net.language.model.{name}"), weight), name
    assert not [key for key in state if key.startswith("net.language")]

    resumed = fit("mini_opt", *trained, f"--ckpt_path={next((whole / 'checkpoints').glob('*step=2.ckpt'))}")
    expected, found = (read_checkpoint(run)["state_dict"] for run in (whole, resumed))
    for key, value in expected.items():
        assert torch.equal(found[key], value), key

    validated = json.loads((whole / "metrics.json").read_text())["loss/lm"]
    same = [f"--ckpt_path={whole}", "--data.test=annotations/captions_val.json", "--data.vqa_test="]
    same[-1] += "{questions: annotations/questions_val.json, annotations: annotations/answers_val.json}"
    (tmp_path / "test").symlink_to(world / "features/val")  # features are kept split by split
    same.append(f"--data.features={tmp_path}")
    fit("mini_opt", *trained, *same, command="test", runs=whole.parent.parent)
    assert json.loads((whole / "metrics.json").read_text())["loss/lm"] == validated
    with pytest.raises(ValueError, match=r"unexpected net\.language\.model\.model\.decoder"):
        fit("mini_opt", f"--ckpt_path={whole}", command="test", runs=whole.parent.parent)
    fit("mini_opt", f"--model.init_from={stage1_run}", runs=whole.parent.parent)
    frozen = read_checkpoint(whole.parent / "version_1")["state_dict"]
    metrics = [json.loads((whole.parent / f"version_{i}" / "metrics.json").read_text()) for i in range(2)]
    assert metrics[0]["train/lr"] == metrics[1]["train/lr"] > 0
    assert frozen and not [key for key in frozen if key.startswith("net.language")]


def test_dropout_resumes_too(fit):
    drops = ["--model.net.qformer.dropout=0.2", "--model.net.itm=null"]
    whole = fit("mini_stage1", *drops)
    resumed = fit("mini_stage1", *drops, f"--ckpt_path={next((whole / 'checkpoints').glob('*step=2.ckpt'))}")
    expected, found = (read_checkpoint(run)["state_dict"] for run in (whole, resumed))
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_examples_in_the_prompt_are_validation_questions(fit, stage1_run, world):
    run = fit("mini_opt", f"--model.init_from={stage1_run}", "--trainer.max_steps=2")
    fit("mini_opt", f"--ckpt_path={run}", "--model.in_context=2", command="test", runs=run.parent.parent)
    solved = json.loads((world / "annotations" / "questions_val.json").read_text())["questions"]
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    shown = [set(each["examples"]) for each in predictions if each["task"] == "vqa"]
    assert all(len(ids) == 2 and ids <= {row["question_id"] for row in solved} for ids in shown)
    assert len(set(map(frozenset, shown))) > 6
    with pytest.raises(ValueError, match=r"128 positions: put fewer examples \(in_context\) in front"):
        fit("mini_opt", f"--ckpt_path={run}", "--model.in_context=4", command="test", runs=run.parent.parent)


def test_stage2_takes_over_every_query_weight(stage1_run, fit):
    run = fit(
        "mini_opt",
        f"--model.init_from={stage1_run}",
        "--trainer.max_steps=2",
        "--model.optimization.lr=1e-30",
        "--model.optimization.min_lr=0",
    )
    before, after = (read_checkpoint(run)["state_dict"] for run in (stage1_run, run))
    taken = {k.removeprefix("net.bridge.qformer."): v for k, v in after.items() if k.startswith("net.bridge.qformer.")}
    assert len(taken) > 30
    for key, value in taken.items():
        assert torch.equal(before[f"net.qformer.{key}"], value), key


def test_a_stage1_of_another_size_is_refused(stage1_run, fit):
    with pytest.raises(ValueError, match=r"init_from.*other settings: bridge\.qformer\.num_queries 24, here 4"):
        fit(
            "mini_opt", f"--model.init_from={stage1_run}",
            "--model.net.bridge.init_args.qformer.init_args.num_queries=4",
        )  # fmt: skip


def test_a_stage1_that_is_not_there_is_said(fit):
    with pytest.raises(FileNotFoundError, match="no checkpoint: 'nowhere'"):
        fit("mini_opt", "--model.init_from=nowhere")


def test_resuming_with_other_sizes_names_the_keys(stage1_run, fit):
    with pytest.raises(ValueError, match=r"query_tokens is \(24, 128\), the model's is \(5, 128\)"):
        fit("mini_stage1", "--model.net.qformer.num_queries=5", f"--ckpt_path={stage1_run}")


def test_stale_features_are_refused(fit, tmp_path, world):
    import shutil

    other = tmp_path / "mini"
    shutil.copytree(world, other)
    about = json.loads((other / "features/train/features.json").read_text())
    about["made_by"]["weights_sha256"] = "0"
    (other / "features/train/features.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="weights_sha256"):
        fit("mini_stage1", f"--data.root={other}")


def test_kept_features_tell_through_which_weights_a_checkpoint_looked(fit, monkeypatch):
    """The encoder is not made for it; where older features do not tell, it is."""
    made = []
    monkeypatch.setattr(VisionEncoder, "_made", lambda self, make=VisionEncoder._made: made.append(self) or make(self))
    own = read_checkpoint(fit("mini_stage1", "--trainer.max_steps=2"))["settings"]["vision.weights"]
    assert not made and own["numbers"]
    monkeypatch.setattr(store, "SIGNATURE", "gone.json")
    assert read_checkpoint(fit("mini_stage1", "--trainer.max_steps=2"))["settings"]["vision.weights"] == own
    assert made


def test_live_images_give_the_losses_of_kept_features(fit, stage1_run):
    """Features are kept in 16 bits: equal to three digits."""
    run = fit("mini_stage1", "--data.features=null")
    kept, live = (json.loads((r / "metrics.json").read_text()) for r in (stage1_run, run))
    assert live["train/loss_total"] == pytest.approx(kept["train/loss_total"], rel=2e-3)


@pytest.mark.slow
def test_packed_shards_give_the_losses_of_the_folder(fit, world, tmp_path):
    """Live images both times; the same files, once in COCO's folder and once in tars."""
    written = yaml.safe_load(Path("experiments/mini_stage1.yaml").read_text())["data"]
    folder = written["init_args"] | {"root": str(world), "features": None, "batch_size": 8, "eval_batch_size": 4}
    (tmp_path / "coco.yaml").write_text(yaml.safe_dump({"data": written | {"init_args": folder}}))
    pack([tmp_path / "coco.yaml"], tmp_path / "packed", samples=7, workers=1)
    del folder["train"]
    tars = {"class_path": "lit_blip2.data.tar_shards.TarShards"}
    tars["init_args"] = folder | {"shards": str(tmp_path / "packed"), "window": None}
    (tmp_path / "tars.yaml").write_text(yaml.safe_dump({"data": tars}))
    runs = [fit("mini_stage1", "--config", str(tmp_path / f"{name}.yaml")) for name in ("coco", "tars")]
    first, second = (json.loads((run / "metrics.json").read_text()) for run in runs)
    assert first == second and "train/loss_itm" in first


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.net.itc.weight=-1", "itc.weight=-1.0 must not be negative"),
        ("--model.net.itg.label_smoothing=3", "label_smoothing=3.0"),
        ("--model.net.qformer.intermediate=0", "intermediate=0 must be at least 1"),
        ("--data.max_caption_words=0", "data.max_caption_words=0: each must be at least 1"),
    ],
)
def test_values_out_of_range_are_named(fit, argument, message):
    with pytest.raises(ValueError, match=message):
        fit("mini_stage1", argument)


def test_a_negative_weight_of_stage_2_is_refused(fit):
    with pytest.raises(ValueError, match=r"objective\.weight=-1.0 must not be negative"):
        fit("mini_opt", "--model.net.objective.weight=-1")


def test_a_run_without_a_last_validation_warns(fit):
    with pytest.warns(UserWarning, match="val_check_interval=2 does not divide the run's 3 batches"):
        fit("mini_stage1", "--trainer.max_steps=3")


def test_a_checkpoint_that_is_not_there_is_never_left_out(fit):
    with pytest.raises(FileNotFoundError, match="no checkpoint: 'last'"):
        fit("mini_stage1", "--ckpt_path=last", command="test")


def test_an_evaluation_without_a_checkpoint_is_refused(fit):
    with pytest.raises(ValueError, match="needs --ckpt_path"):
        fit("mini_stage1", command="test")


def test_predict_writes_captions_and_answers_and_says_where(fit, stage1_run, capsys):
    run = fit("mini_opt", f"--model.init_from={stage1_run}", "--trainer.max_steps=2")
    fit("mini_opt", f"--ckpt_path={run}", command="predict", runs=run.parent.parent)
    lines = [json.loads(line) for line in (run / "predict.jsonl").read_text().splitlines()]
    assert {each["task"] for each in lines} == {"caption", "vqa"}
    assert f"{run}: {len(lines)} rows in predict.jsonl\n" in capsys.readouterr().out
    assert not (run / "predictions.jsonl").exists()  # a test's: predict leaves them alone


def test_popes_questions_are_scored_as_yes_and_no(fit, stage1_run, world, tmp_path):
    run = fit("mini_opt", f"--model.init_from={stage1_run}", "--trainer.max_steps=2")
    images = json.loads((world / "annotations/captions_test.json").read_text())["images"]
    rows = [
        {"question_id": number, "image": image["file_name"], "text": "is there a ring ?", "label": label}
        for number, (image, label) in enumerate(zip(images, ["yes", "no"] * 9, strict=False))
    ]
    (tmp_path / "pope.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--data.vqa_test={questions: %s}" % (tmp_path / "pope.json"), f"--ckpt_path={run}"]
    fit("mini_opt", *asked, command="test", runs=run.parent.parent)
    found = json.loads((run / "metrics.json").read_text())
    assert {"vqa/yes_f1", "vqa/yes_precision", "vqa/yes_recall", "vqa/yes_share", "vqa/type_pope"} <= found.keys()
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    said = [yes_or_no(line["answer"]) == line["answers"][0] for line in lines if line["task"] == "vqa"]
    assert found["vqa/accuracy"] == pytest.approx(sum(said) / len(said)) and len(said) == len(rows)


def test_validate_leaves_a_tests_figures_alone(fit, stage1_run, own_copy):
    run = own_copy(stage1_run)
    before = (run / "metrics.json").read_text()
    fit("mini_stage1", f"--ckpt_path={run}", command="validate", runs=run.parent.parent)
    assert (run / "metrics.json").read_text() == before
    assert "retrieval/itc_txt_r1" in json.loads((run / "validate.json").read_text())
    kept = {"rerank": 3, "precision": "32-true", "vision.dtype": "float32"}
    assert json.loads((run / "validate_decoding.json").read_text()) == kept


def test_validate_leaves_the_rules_that_it_scored_by(fit, stage1_run):
    asked = [f"--model.init_from={stage1_run}", "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    run = fit("mini_opt", *asked)
    scored = ["--model.scoring=lavis", "--model.caption_tokenizer=ptb"]
    fit("mini_opt", *scored, f"--ckpt_path={run}", command="validate", runs=run.parent.parent)
    rules = json.loads((run / "validate_decoding.json").read_text())
    assert (rules["scoring"], rules["caption_tokenizer"]) == ("lavis", "spaces")


def test_random_parts_stand_beside_the_metrics_of_a_fit_and_of_a_test(fit):
    few, mark = ["--model.net.vision.weights=random", "--data.features=null"], {"evaluated/random_image_encoder": 1.0}
    run = fit("mini_stage1", *few, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    for found in (json.loads((run / "metrics.json").read_text()), *curve(run)):
        assert mark.items() <= found.items()
    fit("mini_stage1", *few, f"--ckpt_path={run}", command="test", runs=run.parent.parent)
    found = json.loads((run / "decoding.json").read_text())
    assert {"random", "rerank", "weights"} <= found.keys() and found["random"][0].startswith("image encoder ")
    assert mark.items() <= json.loads((run / "metrics.json").read_text()).items()


def curve(run) -> list[dict]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def test_every_validation_of_a_fit_leaves_a_line(fit, stage1_run, own_copy):
    """Those of other commands leave none."""
    run = own_copy(stage1_run)
    fit("mini_stage1", f"--ckpt_path={run}", command="validate", runs=run.parent.parent)
    first, last = curve(run)
    assert [first["step"], last["step"]] == [2, 4]
    metrics = json.loads((run / "metrics.json").read_text())
    assert last.keys() - {"step"} <= metrics.keys() and {"loss/itc", "retrieval/sum_txt_r1"} <= last.keys()
    assert first["loss/itc"] != last["loss/itc"]


@pytest.mark.slow
def test_a_resumed_run_has_one_line_of_a_step(fit):
    """Resumed in its own folder at step 2: that line stays, what came later is written anew."""
    own = ["--model.net.itm=null", "--trainer.logger.version=version_0"]
    run = fit("mini_stage1", *own)
    before = curve(run)
    old = [before[0], {"step": 3, "old": 1}, {"step": 4, "old": 1}, {"step": 9, "old": 1}]
    (run / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    middle = next((run / "checkpoints").glob("*step=2.ckpt"))
    fit("mini_stage1", *own, f"--ckpt_path={middle}", runs=run.parent.parent)
    assert curve(run) == before


def test_a_figure_that_is_not_finite_is_null_in_the_curve(tmp_path):
    trainer = SimpleNamespace(
        log_dir=str(tmp_path), is_global_zero=True, sanity_checking=False, global_step=7,
        state=SimpleNamespace(fn="fit"), callback_metrics={"b": torch.tensor(torch.inf), "a": torch.tensor(0.5)},
    )  # fmt: skip
    MetricsFile().on_validation_end(trainer, torch.nn.Identity())
    assert (tmp_path / "validation.jsonl").read_text() == '{"step": 7, "a": 0.5, "b": null}\n'


def test_drawn_negatives_of_a_run_can_be_counted(stage1_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["false_negatives.py", "--checkpoint", str(stage1_run), "--batches", "2"])
    false_negatives.main()
    shares = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shares["batches"] == 2 and 0 <= shares["drawn_negatives_true"] <= shares["texts_true_of_another_image"] <= 1


def test_predict_of_stage1_says_why_not(fit, stage1_run, own_copy):
    with pytest.raises(ValueError, match="use a stage-2 experiment"):
        fit("mini_stage1", f"--ckpt_path={own_copy(stage1_run)}", command="predict")


def test_frozen_features_and_an_encoder_that_trains_exclude_each_other(fit):
    with pytest.raises(ValueError, match=r"data.features.*null"):
        fit("mini_stage1", "--model.net.vision.frozen=false")


def test_the_hparams_table_holds_the_settings_and_the_final_figures(fit, stage1_run, own_copy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = own_copy(stage1_run)
    fit("mini_stage1", f"--ckpt_path={run}", command="test", runs=run.parent.parent)
    events = EventAccumulator(str(run))
    events.Reload()
    found = json.loads((run / "metrics.json").read_text())
    name = "retrieval/itc_txt_r1"
    assert events.Scalars(name)[-1].value == pytest.approx(found[name])
    assert events.Scalars(name)[-1].step == 4
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"itc" in content and b"data_seed" in content


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt cannot be read"):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint: give a \.ckpt file"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "was_run"), "w")

    torch.save({"state_dict": {}, "x": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(FileNotFoundError, match="cannot be read"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "was_run").exists()


def test_a_second_fit_into_a_run_is_refused_before_it_writes(fit, tmp_path):
    named = ["--trainer.logger.version=version_7", "--trainer.callbacks=[{class_path: RichProgressBar}]"]
    run = fit("mini_stage1", *named, "--trainer.max_steps=2", runs=tmp_path)
    before = digests(run)
    for more in ([], ["--model.optimization.weight_decay=0.125"], ["--resume", "--data.seed=3"]):
        with pytest.raises(ValueError, match=r"version_7 holds a run already, at step 2 of 2, .*: --resume goes on"):
            fit("mini_stage1", *named, "--trainer.max_steps=2", *more, runs=tmp_path)
    assert digests(run) == before and list(run.parent.iterdir()) == [run]


def test_a_file_that_stands_for_its_run_tells_so_and_one_of_the_best_does_not(stage1_run):
    folder = stage1_run / "checkpoints"
    own, best = (torch.load(folder / name, weights_only=True) for name in ("last.ckpt", "epoch=0-step=2.ckpt"))
    assert own[PLANNED] == 4 and PLANNED not in best
