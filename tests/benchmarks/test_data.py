"""The three sides read the same shards, and the benchmark ends in its figures."""

import json
import sys

import pytest

pytest.importorskip("webdataset")
from benchmarks import data
from lit_blip2.data.shards.indexing import index_shards


def test_every_side_reads_as_many_images(tmp_path):
    data.write_shards(tmp_path, shards=2, samples=40)
    index_shards(tmp_path, workers=1)
    assert [read(tmp_path, 70) for read in (data.ours, data.plain_webdataset, data.bare)] == [64, 64, 64]


def test_it_ends_in_its_figures(monkeypatch, capsys):
    sizes = ["--shards", "2", "--samples", "40", "--images", "32", "--turns", "1"]
    monkeypatch.setattr(sys, "argv", ["data.py", *sizes])
    data.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures.keys() == {
        "speedup_webdataset", "speedup_bare", "images_per_second", "start", "start_late", "index", "bytes"
    }  # fmt: skip
