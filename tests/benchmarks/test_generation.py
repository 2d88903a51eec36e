"""The benchmark of generation at tiny size: texts that differ, equal in a batch and one by one."""

import json

import pytest

from benchmarks import generation


def test_quick_run_ends_with_its_figures(capsys):
    generation.main(["--quick", "--rows", "6", "--new", "5", "--repetitions", "1"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in generation.SETTINGS:
        assert figures[f"equal_{name}"] == 1.0 and figures[f"speedup_{name}"] > 0
        assert figures[f"different_texts_{name}"] > 2


def test_a_text_that_differs_ends_the_run(monkeypatch):
    language = generation.make_model(generation.QUICK)
    monkeypatch.setattr(generation, "one_by_one", lambda *given: ["another"] * 2)
    with pytest.raises(AssertionError, match="another"):
        generation.compare(language, rows=2, beams=1, new=3, repetitions=1)
