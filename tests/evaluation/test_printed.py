"""What docs/metrics.md and the metrics' docstrings print runs, line by line, and gives what stands there."""

import doctest
from pathlib import Path

import pytest
import torch

import lit_blip2.evaluation
from lit_blip2.mini.scene_accuracy import SceneAccuracy
from lit_blip2.mini.world import COLOURS, SHAPES, Object, Scene

RED_RING, BLUE_STAR = (
    Object(SHAPES.index(shape), COLOURS.index(colour), 0, cell, 0, 0)
    for cell, (colour, shape) in enumerate([("red", "ring"), ("blue", "star")])
)
METRICS = [SceneAccuracy, *(getattr(lit_blip2.evaluation, name) for name in lit_blip2.evaluation.__all__)]


def run(text: str, name: str, **known) -> doctest.TestResults:
    return doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(text, known, name, None, 0))


def test_the_page():
    found = run(Path("docs/metrics.md").read_text(), "docs/metrics.md")
    assert found.failed == 0 and found.attempted > 10


@pytest.mark.parametrize("metric", METRICS)
def test_examples(metric):
    known = {"torch": torch, metric.__name__: metric, "scene": Scene((RED_RING, BLUE_STAR), 0)}
    found = run(metric.__doc__, metric.__name__, **known)
    assert found.failed == 0 and found.attempted > 1
