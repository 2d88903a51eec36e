"""The page of the paper's claims: the committed one, and one of outcomes written by hand."""

from pathlib import Path

import pytest
import yaml

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.report.claims import read_claims, results_page, write_results
from lit_blip2.ablation.schema import Decided, Found
from lit_blip2.contents import DataError

CLAIMS, RESULTS = Path("docs/claims.yaml"), Path("ablations/results")
SHOWN = {"ablation": "skip_stage1", "metrics": ["vqa/mean_over_types"], "plot": "a.curve", "note": "Mind *this*."}
CLAIM = {"says": "Stage 1 is needed.", "where": "figure 5", "shown": [SHOWN], "full": ["fit --config a.yaml"]}


@pytest.fixture
def file(tmp_path):
    """A file of claims, some keys of the first ablation replaced."""

    def file(claim: dict | None = None, **shown) -> Path:
        content = {"claims": [claim or CLAIM | {"shown": [SHOWN | shown]}]}
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / "claims.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "docs" / "claims.yaml"

    return file


def ran(results: Path, *decided: Decided, done: int = 16) -> None:
    about = {"name": "skip_stage1", "question": "?", "expect": "", "seeds": list(range(8)), "cells": 16}
    short = Found(**about, expected=list(decided), done=done)
    write(Folder(results / "skip_stage1").outcome, short)


def decided(metric: str, **fields) -> Decided:
    known = {"verdict": "came true", "difference": 0.15, "interval": (0.1, 0.2), "p": 0.01}
    return Decided(claim=f"`{metric}` is better", metric=metric, **known | fields)


def test_the_committed_page_is_what_the_command_makes():
    """python -m lit_blip2 report --summary ablations/results --claims docs/claims.yaml"""
    assert Path("docs/results.md").read_text() == results_page(CLAIMS, RESULTS)


def test_what_a_claim_is_to_be_shown_by_at_full_size_is_there():
    words = [word for claim in read_claims(CLAIMS) for line in claim.full for word in line.split()]
    assert all(Path(word).is_file() for word in words if word.endswith(".yaml"))


def test_a_claim_without_a_result_is_not_run_yet(file, tmp_path):
    page = results_page(file(), tmp_path / "results")
    assert "| 1 | Stage 1 is needed. | figure 5 | `skip_stage1`: not run yet |" in page
    assert "not run yet (`python -m lit_blip2 sweep --config ablations/skip_stage1.yaml`)." in page
    assert "    python -m lit_blip2 fit --config a.yaml" in page


def test_a_claim_shows_its_own_comparisons_with_interval_n_and_plot(file, tmp_path):
    results = tmp_path / "results"
    open_one = decided("vqa/mean_over_types", verdict="open, too few seeds", difference=None, interval=None, p=None)
    ran(results, decided("vqa/mean_over_types"), open_one, decided("caption/cider"))
    page = results_page(file(), results)
    assert "`skip_stage1`: came true; open, too few seeds |" in page and "caption/cider" not in page
    assert "[skip\\_stage1](../results/skip_stage1/report.md), n = 8:\n\n" in page
    assert "- `vqa/mean_over_types` is better: **came true** (difference +0.150, +0.100 to +0.200, p 0.0100)\n" in page
    assert "Mind \\*this\\*." in page and "![" not in page
    plot = results / "skip_stage1" / "plots" / "a.curve.png"
    plot.parent.mkdir()
    plot.touch()
    assert "![a.curve](../results/skip_stage1/plots/a.curve.png)" in results_page(file(), results)
    ran(results, decided("vqa/mean_over_types"), done=9)
    assert "n = 8, 9 of 16 cells done:" in results_page(file(), results)
    ran(results, decided("caption/cider"))
    assert "- no comparison of `vqa/mean_over_types` was written down beforehand." in results_page(file(), results)
    assert write_results(file(), results).read_text() == results_page(file(), results)


def test_a_claim_of_size_alone_says_so(file, tmp_path):
    page = results_page(file({key: CLAIM[key] for key in ("says", "where", "full")}), tmp_path)
    assert "| only a run at full size can show it |" in page


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"ablation": "../objectives"}, "ablation '../objectives' is not known"),
        ({"ablation": "skip_stage"}, "ablation 'skip_stage' is not known, did you mean 'skip_stage1'"),
        (
            {"metrics": ["vqa/mean"]},
            "skip_stage1: metric of a comparison 'vqa/mean' is not known; there are vqa/mean_over_types",
        ),
        ({"picture": "a"}, "picture"),
        ({"metrics": "vqa/mean_over_types"}, "claims.0.shown.0.metrics"),
    ],
)
def test_a_claim_of_what_there_is_not_is_refused(file, shown, said):
    with pytest.raises(DataError) as refused:
        read_claims(file(**shown))
    assert said in str(refused.value)
