"""A run with the callback Forgetting."""

import json

import pytest

from lit_blip2.mini import forgetting


@pytest.mark.run
def test_a_run_logs_it_at_each_validation_and_in_its_test(fit, stage1_run, tmp_path):
    callback = "--trainer.callbacks+=lit_blip2.mini.forgetting.Forgetting"
    own = [callback, f"--model.init_from={stage1_run}"]
    run = fit("mini_opt", *own, runs=tmp_path)
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    names = {*forgetting.NAMES, forgetting.CONSTANCY}
    assert len(lines) == 2 and all(names <= line.keys() for line in lines)
    fit("mini_opt", *own, f"--ckpt_path={run}", command="test", runs=tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    assert names <= metrics.keys() and 0 <= metrics["vqa/answer_mass"] <= 1
    assert set(forgetting.NAMES) <= json.loads((run / "intervals.json").read_text()).keys()
