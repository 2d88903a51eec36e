"""Runs with the callback CellProbes, as experiments/mini_test/cells.yaml adds it."""

import json
import shutil

import pytest

PROBES = "--trainer.callbacks+=lit_blip2.mini.cell_probes.CellProbes"


def metrics_of(fit, run, experiment: str, *more: str, command="test") -> dict:
    fit(experiment, PROBES, f"--ckpt_path={run}", *more, command=command, runs=run.parent.parent)
    return json.loads((run / ("metrics.json" if command == "test" else "validate.json")).read_text())


@pytest.mark.run
def test_a_test_of_stage_1_probes_patches_and_queries(fit, stage1_run, own_copy):
    run = own_copy(stage1_run)
    metrics = metrics_of(fit, run, "mini_stage1")
    names = {f"probe/{kind}{end}" for kind in ("patches", "queries") for end in ("", "_chance")}
    assert names <= metrics.keys() and "probe/soft_prompt" not in metrics and 0 < metrics["probe/left_out"] < 126
    intervals = json.loads((run / "intervals.json").read_text())
    low, high = (intervals["probe/queries"][end] for end in ("low", "high"))
    assert 0 <= low <= metrics["probe/queries"] <= high <= 1 and intervals["probe/queries"]["images"] == 6
    assert names <= metrics_of(fit, run, "mini_stage1", command="validate").keys()


@pytest.mark.run
def test_images_are_probed_as_their_cached_features_are(fit, stage2_run, own_copy):
    run = own_copy(stage2_run)
    kept = metrics_of(fit, run, "mini_opt", "--data.vqa_test=null")
    seen = metrics_of(fit, run, "mini_opt", "--data.vqa_test=null", "--data.features=null")
    assert {"probe/soft_prompt", "probe/soft_prompt_chance"} <= kept.keys() and "probe/queries" not in kept
    assert seen["probe/soft_prompt"] == pytest.approx(kept["probe/soft_prompt"], abs=0.1)


@pytest.mark.run
def test_one_scene_has_no_class_to_probe(fit, stage1_run, own_copy):
    one = ["--trainer.limit_test_batches=1", "--data.eval_batch_size=1"]
    with pytest.raises(
        ValueError, match="none of 126 classes both occurs and is absent among 24 training scenes and among 1"
    ):
        metrics_of(fit, own_copy(stage1_run), "mini_stage1", *one)


@pytest.mark.run
def test_without_scenes_it_says_what_is_missing(fit, stage1_run, own_copy):
    run = own_copy(stage1_run)
    with pytest.raises(FileNotFoundError, match=r"missing: .*nowhere\.json, the mini-world's scenes"):
        lost = "{class_path: lit_blip2.mini.cell_probes.CellProbes, init_args: {scenes_train: nowhere.json}}"
        fit("mini_stage1", f"--trainer.callbacks+={lost}", f"--ckpt_path={run}", command="test", runs=run.parent.parent)


@pytest.mark.run
def test_two_ranks_probe_as_one(fit, stage1_run, tmp_path):
    found = []
    for strategy, devices in (("auto", 1), ("ddp_fork", 2)):
        run = shutil.copytree(stage1_run, tmp_path / strategy / "mini_stage1" / "version_0")
        ranks = [f"--trainer.devices={devices}", f"--trainer.strategy={strategy}", "--data.binding_test=null"]
        metrics = metrics_of(fit, run, "mini_stage1", *ranks)
        found.append({name: value for name, value in metrics.items() if name.startswith("probe/")})
    assert found[0] == pytest.approx(found[1], abs=0.02) and len(found[0]) > 6
