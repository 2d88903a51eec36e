"""What the benchmark of cached features measures, on a few images."""

from pathlib import Path

import pytest

from benchmarks import features
from lit_blip2.commands.features import read_vision
from lit_blip2.mini.write import write_world


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bench") / "mini"
    write_world(root, train=2, val=2, test=48, workers=1)
    return root


@pytest.mark.run
def test_sizes_and_errors_of_each_kept_type(root, tmp_path):
    vision = read_vision([features.EXPERIMENT])
    vision.load()
    written = features.written(vision, root, tmp_path)
    assert {name: each["bytes_per_image"] // 1000 for name, each in written.items()} == {
        "float16": 16, "bfloat16": 16, "int8": 8
    }  # fmt: skip
    errors = features.errors(vision, root, tmp_path)
    assert 0 < errors["float16"] < errors["bfloat16"] < errors["int8"] < 0.02
    assert len(features.mini_step(root, tmp_path, turns=1, steps=1)) == 3
