"""One table of many sweeps, and reports of committed records alone."""

import json
import re
import sys
from pathlib import Path

import pytest

from lit_blip2.__main__ import main
from lit_blip2.ablation.folder import SweepError
from lit_blip2.ablation.report.cells_csv import cells_csv
from lit_blip2.ablation.report.page import report_markdown, write_report
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.report.summary import found, write_summary

CLAIM = (
    "`vqa/mean_over_types` is better with `itc=on,bridge=on` than with `itc=off,bridge=on` (size that matters: 0.05)"
)
COMMITTED = sorted({file.parents[1] for file in Path("ablations/results").glob("*/cells/*.json")})
ABLATION = """
question: Which?
expect: {text: ITC helps., comparisons: [{metric: a/b, better: {itc: on}, than: {itc: off}, by: .05}]}
steps: {fit: {fit: a.yaml}}
axes: {itc: {on: {}, off: {fit.x: 1}}}
metrics: [a/b, c/d]
seeds: [0, 1, 2]
"""


@pytest.fixture
def expecting(sweep):
    """The sweep with two expectations, of which one cannot be decided."""
    on, off = {"itc": "on", "bridge": "on"}, {"itc": "off", "bridge": "on"}
    one = {"metric": "vqa/mean_over_types", "better": on, "than": off, "by": 0.05}
    sweep.plan["expected"] = [one, one | {"better": {"itc": "off", "bridge": "off"}}]
    return sweep


def test_a_table_has_a_line_for_each_sweep(expecting, monkeypatch, capsys):
    write_report(expecting.write())
    folder = expecting.folder.parent
    monkeypatch.setattr(sys, "argv", ["lit_blip2", "report", "--summary", str(folder)])
    assert not main()
    assert capsys.readouterr().out.splitlines() == [str(folder / "README.md")]
    text = (folder / "README.md").read_text()
    assert f"`python -m lit_blip2 report --summary {folder}`" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| [sweep](sweep/report.md)")]
    assert line.split(" | ")[1].startswith("Which of \\*ITC\\*")
    assert line.endswith("| 1 came true, 1 open (n = 3, 9 of 12 cells done) |")


def test_each_sweep_has_its_outcome_and_its_plot(expecting):
    write_report(expecting.write())
    section = write_summary(expecting.folder.parent).read_text().split("## [sweep](sweep/report.md)\n\n")[1]
    _, outcome, plot = section.strip().split("\n\n")
    first, second = outcome.splitlines()
    assert first.startswith(f"- {CLAIM}: **came true** (difference +0.100, ") and first.endswith(")")
    assert "**open, 3 of 6 cells without a value" in second
    path = re.fullmatch(r'<img src="(sweep/plots/metric.vqa-mean_over_types.png)" width="680" alt=".*">', plot)[1]
    assert (expecting.folder.parent / path).is_file()


def test_the_plot_is_along_the_training_where_a_comparison_is(expecting):
    expecting.plan["expected"][1]["at"] = 260
    write_report(expecting.write())
    short = json.loads((expecting.folder / "outcome.json").read_text())
    assert short["plot"] == "plots/forgetting.stage2.vqa-mean_over_types.png"


def test_the_report_in_short_is_data(expecting):
    write_report(expecting.write())
    short = json.loads((expecting.folder / "outcome.json").read_text())
    assert short["seeds"] == [0, 1, 2] and (short["cells"], short["done"]) == (12, 9)
    first, second = short["expected"]
    assert first["difference"] == pytest.approx(0.1) and first["interval"][0] > 0 and first["verdict"] == "came true"
    assert (second["difference"], second["interval"], second["p"]) == (None, None, None)


def test_the_table_says_which_trainings_are_short(expecting):
    for seed in (0, 1):
        expecting.plan["steps"][f"stage1/itc=off,seed={seed}"]["max_steps"] = 700
    write_report(expecting.write())
    short = "**Fewer steps than planned:** `stage1/itc=off,seed=0` (680 of 700) and 1 more"
    assert json.loads((expecting.folder / "outcome.json").read_text())["warnings"] == [short]
    text = write_summary(expecting.folder.parent).read_text()
    assert f" | {short}<br>1 came true" in text


def test_what_no_table_can_be_made_of_says_so(sweep, tmp_path):
    with pytest.raises(SweepError, match=r"holds a report\.md"):
        write_summary(tmp_path / "nowhere")
    write_report(sweep.write())
    (sweep.folder / "outcome.json").unlink()
    with pytest.raises(SweepError, match=r"no outcome.json in .*sweep: write the report again \(python -m"):
        write_summary(tmp_path)
    sweep.put("outcome.json", "{")
    with pytest.raises(SweepError, match=r"outcome\.json cannot be read as JSON"):
        write_summary(tmp_path)


@pytest.fixture
def records(new_sweep, tmp_path, monkeypatch):
    """Records without a plan, and the ablation's file."""
    monkeypatch.chdir(tmp_path)
    Path("ablations").mkdir()
    Path("ablations/sweep.yaml").write_text(ABLATION)
    for itc, values in {"off": [0.1, 0.12, 0.11], "on": [0.3, 0.31, 0.33]}.items():
        for seed, value in enumerate(values):
            name = new_sweep.cell({"itc": itc}, seed, [], {})
            new_sweep.ended(name, **{"a/b": value} | ({"c/d": 0.5} if itc == "on" else {}))
    return new_sweep


def test_records_without_a_plan_are_read_with_the_ablation_s_file(records):
    records.ended("itc=maybe,seed=0", extra={"labels": {"itc": "maybe"}}, **{"a/b": 0.9})
    read = read_sweep("sweep")
    page = report_markdown(read, "sweep", Plots())
    assert "there is no plan.json beside them. What was asked stands in `ablations/sweep.yaml`" in page
    assert found(read).expected[0].verdict == "came true" and "**Status:** 6 done" in page
    assert "cells/itc=maybe,seed=0.json belongs to no cell" in page and "## Cost" not in page
    assert "| `itc=off` | 0.110 | 0.0100 | 3 |" in page and "| `itc=off` | n/a | - | - |" in page
    assert list(read.settings) == ["itc=on", "itc=off"]


def test_settings_and_seeds_without_a_record_are_waiting(records):
    for file in records.folder.glob("cells/itc=on*"):
        file.unlink()
    (records.folder / "cells/itc=off,seed=1.json").unlink()
    read = read_sweep("sweep")
    assert "2 done, 0 failed, 4 running or waiting, of 6 cells" in report_markdown(read, "sweep", Plots())
    assert (found(read).cells, found(read).done) == (6, 2)


def test_a_report_of_records_alone_leaves_their_table(records):
    records.put("cells.csv", "cell,seconds\n")
    files = {file.name for file in write_report("sweep")}
    assert "report.md" in files and "cells.csv" not in files
    assert (records.folder / "cells.csv").read_text() == "cell,seconds\n" != cells_csv(read_sweep("sweep"))


def test_an_ablation_s_file_beside_the_records_counts_in_place_of_todays(records):
    """Whose axis has another name since."""
    Path("sweep/sweep.yaml").write_text(ABLATION)
    Path("ablations/sweep.yaml").write_text(ABLATION.replace("itc:", "kind:"))
    page = report_markdown(read_sweep("sweep"), "sweep", Plots())
    assert "What was asked stands in `sweep/sweep.yaml`" in page and "**Status:** 6 done" in page


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_records_all_belong_to_a_cell(folder):
    read = read_sweep(folder)
    assert not read.strangers and len(read.cells) == len(read.settings) * len(read.plan.seeds)
    assert not read.remade or len(read.cells) == len(read.records)  # a sweep that still runs is committed with its plan


def test_records_of_no_ablation_are_refused(records):
    Path("ablations/sweep.yaml").unlink()
    with pytest.raises(SweepError, match=r"no plan\.json in 'sweep'"):
        read_sweep("sweep")
