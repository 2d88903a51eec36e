"""The part of README.md that is made of committed reports, and one of outcomes written by hand."""

from pathlib import Path

import pytest

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.report.front import BEGIN, END, front, write_front
from lit_blip2.ablation.schema import Decided, Found
from lit_blip2.contents import DataError

README, CLAIMS, RESULTS = Path("README.md"), Path("docs/claims.yaml"), Path("ablations/results")
ABLATION = """
question: Is {name} good?
scale: tiny
steps: {a: {fit: scale.stage1}}
axes: {k: {x: {}, y: {}}}
metrics: [loss/itc]
"""


@pytest.fixture
def results(tmp_path):
    """The folder for reports of two ablations, `one` and `two`, and beside them a page."""
    (tmp_path / "ablations" / "results").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / "ablations" / f"{name}.yaml").write_text(ABLATION.replace("{name}", name))
    (tmp_path / "page.md").write_text(f"Before.\n\n{BEGIN}\nold\n{END}\n\nBehind.\n")
    return tmp_path / "ablations" / "results"


def ran(results: Path, *verdicts: str, done: int = 16) -> None:
    short = "`k=x` over `k=y` in `loss/itc`"
    decided = [
        Decided(claim="", short=short, verdict=each, difference=-0.1, interval=(-0.2, 0.0), p=0.03) for each in verdicts
    ]
    about = {"name": "one", "question": "Was one good?", "expect": "", "seeds": list(range(8)), "cells": 16}
    write(Folder(results / "one").outcome, Found(**about, expected=decided, done=done))


def test_the_committed_part_is_what_the_command_makes():
    """python -m lit_blip2 report --summary ablations/results --claims docs/claims.yaml --front README.md"""
    part = README.read_text().partition(BEGIN)[2].partition(END)[0]
    assert part.strip() == front(README, CLAIMS, RESULTS)


def test_each_ablation_has_a_line_with_what_came_of_it(results, tmp_path):
    ran(results, "came true", "open, too few seeds", "came true", "did not come true: smaller than 0.05")
    write_front(tmp_path / "page.md", CLAIMS, results)
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(f"Before.\n\n{BEGIN}\n\n| ablation |") and text.endswith(f"\n\n{END}\n\nBehind.\n")
    first = "`k=x` over `k=y` in `loss/itc`: -0.100, came true"
    assert f"| [`one`](ablations/results/one/report.md) | {first} | 2 came true, 1 did not, 1 open (n = 8) |" in text
    assert "\n\nNot run yet: `two`.\n" in text and "old" not in text and "![" not in text
    ran(results, done=9)
    write_front(tmp_path / "page.md", CLAIMS, results)
    assert "| - | no comparison (n = 8, 9 of 16 cells done) |" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("did not come true: smaller than 0.05", "smaller than 0.05"),
        ("did not come true: the opposite is shown", "the opposite is shown"),
        ("open, smallest detectable difference 0.1", "open"),
        ("open, 1 of 8 cells without a value (1 waiting)", "open"),
    ],
)
def test_the_first_comparison_is_told_in_short(results, tmp_path, verdict, said):
    ran(results, verdict)
    write_front(tmp_path / "page.md", CLAIMS, results)
    assert f": -0.100, {said} |" in (tmp_path / "page.md").read_text()


def test_the_first_plot_that_is_there_stands_below(results, tmp_path):
    plot = results / "unfreeze_llm" / "plots" / "forgetting.stage2.llm-text_qa.png"
    plot.parent.mkdir(parents=True)
    plot.touch()
    text = front(tmp_path / "page.md", CLAIMS, results)
    assert "The paper (section 1): Frozen models keep what they know" in text
    assert text.count("![") == 1 and f"({plot.relative_to(tmp_path)})" in text


def test_a_page_without_room_for_it_is_refused(results, tmp_path):
    (tmp_path / "page.md").write_text("Nothing.\n")
    with pytest.raises(DataError, match="has no part for outcomes: put '<!-- outcomes"):
        write_front(tmp_path / "page.md", CLAIMS, results)
