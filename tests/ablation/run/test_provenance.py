"""The command that stands in a report's first line."""

import argparse

import pytest

from lit_blip2.ablation.run.provenance import command_line

PLAIN = "python -m lit_blip2 sweep --config ablations/one.yaml --scale tiny --set 'a.b=[1, 2]' --workers 2"


@pytest.mark.parametrize(
    ("preloaded", "before"),
    [
        (None, ""),
        ("", ""),
        ("/here/mkl_on_amd.so", "LD_PRELOAD=mkl_on_amd.so "),
        ("/a.so:/b.so", "LD_PRELOAD=a.so:b.so "),
    ],
)
def test_it_makes_the_sweep_again(monkeypatch, preloaded, before):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    if preloaded is not None:
        monkeypatch.setenv("LD_PRELOAD", preloaded)
    options = argparse.Namespace(config="ablations/one.yaml", scale="tiny", set=["a.b=[1, 2]"], workers=2)
    assert command_line(options) == before + PLAIN
