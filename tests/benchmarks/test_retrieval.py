"""The benchmark's sides of re-ranking give the same logits, and a difference is seen, at tiny sizes."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import retrieval
from benchmarks.stage1_step import QUICK


def test_every_side_gives_the_same_logits():
    work = retrieval.sides(replace(QUICK, max_text=35), texts=6)
    found = {name: side() for name, side in work.items()}
    for name in ("plain", "longest"):
        torch.testing.assert_close(found["ours"], found[name], atol=1e-6, rtol=1e-4)
        assert retrieval.check(found["ours"], found[name]) < 1e-6


def test_another_order_or_score_is_refused():
    logits = torch.tensor([0.1, 0.3, 0.2])
    for other in (logits + 1e-3, torch.tensor([0.1, 0.30001, 0.30002])):
        with pytest.raises(ValueError, match="the sides differ"):
            retrieval.check(logits, other)


def test_quick_run_ends_with_its_figures(capsys):
    retrieval.main(["--quick", "--texts", "8", "--repetitions", "1"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["speedup"] > 0 and figures["speedup_to_longest"] > 0 and 0 < figures["memory_peak"] < 1
    assert figures["gflop_ours"] < figures["gflop_longest"] < figures["gflop_plain"]
