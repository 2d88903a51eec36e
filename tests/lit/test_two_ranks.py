"""The command line on two ranks: the same training and the same figures as on one."""

import json
import subprocess
import sys

import pytest
import torch

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.evaluation.vqa import vqa_scores
from lit_blip2.mini.scene_files import load_scenes


def command(world, opt_folder, runs, name, experiment, *arguments):
    """Run it on two ranks, in processes of their own: DDP starts its ranks by running the command line again."""
    own = ["--model.rerank=3"] if experiment == "mini_stage1" else [f"--model.net.language.name={opt_folder}"]
    code = subprocess.run(
        [
            sys.executable, "-m", "lit_blip2", name, "--config", f"experiments/{experiment}.yaml", *own,
            f"--data.root={world}", "--data.batch_size=8", "--data.eval_batch_size=2", "--trainer.devices=2",
            "--trainer.strategy=auto", f"--trainer.logger.save_dir={runs}", "--trainer.max_steps=4",
            "--trainer.val_check_interval=4", "--model.optimization.warmup_steps=1", "--trainer.log_every_n_steps=1",
            *arguments,
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert code.returncode == 0, code.stderr[-2000:]
    return runs / experiment / "version_0"


def without_key_bias(key, value):
    """Softmax forgets a bias on keys: its gradient is noise around 0, and so is what Adam makes of it."""
    if key.endswith("attention.qkv.bias"):
        query, _, value_bias = value.chunk(3)
        return torch.cat([query, value_bias])
    return value.chunk(2)[1] if key.endswith("cross.kv.bias") else value


def read(run) -> list[dict]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]


def alike(predictions: list[dict]) -> list[dict]:
    """What was said, without the loss: a sum in another order."""
    return [{key: value for key, value in each.items() if key != "nats"} for each in predictions]


@pytest.mark.slow
def test_two_ranks_train_and_evaluate_as_one(fit, world, opt_folder, tmp_path):
    alone = ["--trainer.val_check_interval=4", "--data.eval_batch_size=2"]
    stage1 = [fit("mini_stage1", *alone), command(world, opt_folder, tmp_path, "fit", "mini_stage1")]
    one, two = (read_checkpoint(run)["state_dict"] for run in stage1)
    for key in one:  # in norm: Adam turns the sign of a gradient of 1e-9 into a whole step
        ours, theirs = without_key_bias(key, one[key]), without_key_bias(key, two[key])
        assert (theirs - ours).norm() <= 0.02 * ours.norm() + 1e-3, key
    one, two = (json.loads((run / "metrics.json").read_text()) for run in stage1)
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith(("retrieval", "binding")):
            assert two[name] == pytest.approx(one[name], abs=0.2), name
    start = f"--model.init_from={stage1[0]}"
    run = command(world, opt_folder, tmp_path, "fit", "mini_opt", start)
    command(world, opt_folder, tmp_path, "test", "mini_opt", start, f"--ckpt_path={run}")
    predictions, metrics = read(run), json.loads((run / "metrics.json").read_text())
    ids = [each["image_id"] for each in predictions if each["task"] == "caption"]
    assert len(ids) == len(set(ids)) == 6
    questions = [each["question_id"] for each in predictions if each["task"] == "vqa"]
    assert len(questions) == len(set(questions)) > 6
    assert len(questions) % 2  # the ranks' shares differ
    by_one = fit("mini_opt", start, f"--ckpt_path={run}", command="test", runs=run.parent.parent)
    assert by_one == run and sorted(map(json.dumps, alike(predictions))) == sorted(map(json.dumps, alike(read(run))))
    scenes = load_scenes(world / "annotations/scenes_test.json").scenes
    table = json.loads((world / "annotations/questions_test.json").read_text())["questions"]
    objects = {row["question_id"]: len(scenes[row["image_id"]].objects) for row in table}
    for count in range(1, 5):
        asked = [each for each in predictions if each["task"] == "vqa" and objects[each["question_id"]] == count]
        right = vqa_scores([each["answer"] for each in asked], [each["answers"] for each in asked])
        assert metrics.get(f"vqa/objects_{count}") == (pytest.approx(sum(right) / len(right)) if right else None)
