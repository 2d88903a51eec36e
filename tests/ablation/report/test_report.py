"""Whole reports of sweeps written by hand, read back: tables, CSV, HTML, plots, and what is refused."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image
from scipy import stats

from lit_blip2.__main__ import main
from lit_blip2.ablation.folder import SweepError
from lit_blip2.ablation.report.cells_csv import cells_csv
from lit_blip2.ablation.report.html import to_html
from lit_blip2.ablation.report.page import report_markdown, write_report
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.report.summary import found
from tests.ablation.report.blank import Blank


def report(folder: Path) -> str:
    """The page's Markdown."""
    return report_markdown(read_sweep(folder), str(folder), Blank())


def csv_rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(cells_csv(read_sweep(folder)))))


def tables(markdown: str) -> dict[str, list[list[list[str]]]]:
    """The tables below each heading, as GitHub reads them: rows of cells' texts."""
    found, heading, tokens = {}, "", MarkdownIt("commonmark").enable("table").parse(markdown)
    for before, token in pairwise(tokens):
        if token.type == "table_open":
            found.setdefault(heading, []).append([])
        elif token.type == "tr_open":
            found[heading][-1].append([])
        elif token.type == "inline":
            text = "".join(child.content for child in token.children)
            if before.type == "heading_open":
                heading = text
            elif before.type in ("td_open", "th_open"):
                found[heading][-1][-1].append(text)
    return found


def rows(markdown: str, heading: str) -> dict[str, list[str]]:
    """The table below a heading by its first column."""
    return {row[0]: row[1:] for row in tables(markdown)[heading][0]}


class Sources(HTMLParser):
    """Everything a page would load, and every tag in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_opens_with_its_commands_and_how_far_it_has_come(sweep):
    page = report(sweep.write())
    assert page.startswith(
        "Sweep: `python -m lit_blip2 sweep --config ablations/objectives.yaml --out runs/objectives`"
    )
    assert f"`python -m lit_blip2 report {sweep.folder}`" in page.splitlines()[0]
    assert "Which of \\*ITC\\* and ITG does stage 2 need?" in page
    assert "**Expected beforehand:** Without ITC, VQA falls by .05." in page
    assert "**Status:** 9 done, 1 failed, 2 running or waiting, of 12 cells." in page
    assert "still running** (or was stopped): 2 of 12" in page


def test_the_outcome_and_the_overview_come_first(sweep):
    on, off = {"itc": "on", "bridge": "on"}, {"itc": "off", "bridge": "on"}
    sweep.plan["expected"] = [{"metric": "vqa/mean_over_types", "better": on, "than": off, "by": 0.05}]
    page = report(sweep.write())
    head, rest = page.split("## Overview")
    (outcome,) = [line for line in head.splitlines() if line.startswith("- ")]
    assert "than with `itc=off,bridge=on` (size that matters: 0.05): **came true** (difference +0.100, +0.0" in outcome
    assert re.findall("^## (.*)", rest, re.M)[:3] == ["What was expected", "What was run", "Metrics"]
    assert rest.index("![all metrics by setting](plots/overview.png)") < rest.index("| setting | n |")


def test_the_page_says_what_a_scale_has_left_out(sweep):
    assert "Left out" not in report(sweep.write())
    sweep.plan["left_out"] = ["llm=t5: no t5, none is published", "llm/text_qa: no texts"]
    assert "**Left out:** llm=t5: no t5, none is published; llm/text\\_qa: no texts." in report(sweep.write())


def test_runs_that_made_fewer_steps_than_planned_are_named(new_sweep):
    for name, steps in (("stage2/short", 4), ("stage2/whole", 6)):
        new_sweep.step(name, seconds=1.0, steps=steps)
        new_sweep.plan["steps"][name]["max_steps"] = 6
    page = report(new_sweep.write())
    assert "> **Fewer steps than planned:** `stage2/short` (4 of 6). A limit" in page


def test_metrics_of_an_earlier_step_than_a_runs_last_are_named(new_sweep):
    for name, steps in (("stage2/odd", 5), ("stage2/even", 6), ("stage2/old", 5)):
        new_sweep.step(name, seconds=1.0, steps=steps)
        new_sweep.cell({"bridge": name.partition("/")[2]}, 0, [name], {"loss/lm": name})
        told = {} if name.endswith("old") else {"evaluated/val_step": steps // 3 * 3.0}
        new_sweep.put(f"runs/{name}/metrics.json", json.dumps({"loss/lm": 1.0} | told))
    page = report(new_sweep.write())
    assert "> **Metrics of an earlier step than the last:** `stage2/odd` (step 3 of 5). These" in page


def reached(planned: int | None, made: int, measured: int | None) -> dict:
    return {"planned": planned, "made": made, "measured": measured}


def test_a_record_tells_how_far_its_steps_came_without_the_runs(new_sweep):
    for label, made, measured in (("short", 4, 4), ("odd", 6, 3), ("long", 9, 9), ("whole", 6, 6)):
        runs = [f"{step}/bridge={label},seed=0" for step in ("stage2", "vqa")]
        new_sweep.step(runs[0])
        new_sweep.step(runs[1], "test")
        told = dict(zip(runs, (reached(6, made, measured), reached(None, made, made))))
        new_sweep.ended(new_sweep.cell({"bridge": label}, 0, runs, {}), extra={"reached": told})
    page = report(new_sweep.write())
    assert "> **Fewer steps than planned:** `stage2/bridge=short,seed=0` (4 of 6). A limit" in page
    assert "> **More steps than planned:** `stage2/bridge=long,seed=0` (9 of 6). Somebody" in page
    assert "> **Metrics of an earlier step than the last:** `stage2/bridge=odd,seed=0` (step 3 of 6). These" in page
    assert "earlier step of another run" not in page


def test_trials_that_ended_before_their_last_step_are_named(search):
    for n, told in ((0, reached(6, 4, 3)), (1, reached(6, 6, 6))):
        edited(search, f"cells/trial={n}.json", name=f"trial={n}", reached={f"stage2/lr={n}": told})
    page = report(search.write())
    assert "> **Fewer steps than planned:** `stage2/lr=0` (4 of 6). A limit" in page
    assert "> **Metrics of an earlier step than the last:** `stage2/lr=0` (step 3 of 4). These" in page


@pytest.mark.parametrize("is_told", [True, False], ids=["in done.json", "in an older test's metrics.json"])
def test_what_stands_on_an_earlier_step_of_a_run_that_has_gone_on_is_named(new_sweep, is_told):
    new_sweep.step("stage1/a", steps=6)
    new_sweep.step("itc/a", "test", **({"parents": {"stage1/a": 4}} if is_told else {"steps": None}))
    new_sweep.plan["steps"]["itc/a"]["parents"] = {"stage1": "stage1/a"}
    new_sweep.put("runs/itc/a/metrics.json", json.dumps({"x/y": 1.0} | ({} if is_told else {"evaluated/test_step": 4})))
    told = {"stage1/a": reached(6, 4, None), "itc/a": reached(None, 4, 4)}
    new_sweep.ended(new_sweep.cell({"k": "a"}, 0, ["stage1/a", "itc/a"], {"x/y": "itc/a"}), extra={"reached": told})
    page = report(new_sweep.write())
    older = ["`itc/a` (step 4 of `stage1/a`, which is at 6)", "`cell k=a,seed=0` (step 4 of `stage1/a`, which is at 6)"]
    assert f"> **Made of an earlier step of another run:** {', '.join(older)}. That run" in page


def test_a_metric_has_its_mean_interval_and_verdict(sweep):
    found = rows(report(sweep.write()), "vqa/mean_over_types")
    assert found["itc=on,bridge=on (control)"] == ["0.600", "0.0200", "3", *["-"] * 5, "control"]
    # standard deviations .03 and .02 of three seeds each, three comparisons; of two Holm's p is known
    error, df = math.sqrt(0.0013 / 3), 0.0013**2 / ((0.0009**2 + 0.0004**2) / 2)
    half = stats.t.ppf(1 - 0.05 / 6, df) * error
    shown, p = half + stats.t.ppf(0.8, df) * error, 3 * 2 * stats.t.sf(0.1 / error, df)
    numbers = ["-0.100", f"{-0.1 - half:+.3f} to {-0.1 + half:+.5f}", f"{p:.4f}", f"{df:.2f}", f"{shown:.3f}"]
    assert found["itc=off,bridge=on"] == ["0.500", "0.0300", "3", *numbers, "worse"]
    assert found["itc=on,bridge=off"][3] == "0" and found["itc=on,bridge=off"][5::3] == ["1.00", "no difference shown"]


def test_a_metric_says_which_split_it_is_of_and_how_much(sweep):
    """Stage 1 of itc=on validated on a part; a stage 2 on its whole split, at one seed on fewer questions."""
    assert "Evaluated on" not in report(sweep.write())  # runs of before it was kept
    for name in sweep.plan["steps"]:
        stage1 = name.startswith("stage1")
        about = {"evaluated/val_images": 250, "evaluated/val_images_share": 0.05}
        about |= {"evaluated/val_questions": 4000, "evaluated/val_questions_share": 1.0}
        about |= {"retrieval/itc_txt_r1": 0.9} if stage1 else {}
        sweep.put(f"runs/{name}/metrics.json", json.dumps(about | {"vqa/mean_over_types": 0.1, "loss/lm": 1.0}))
    page = report(sweep.write())
    vqa, retrieval = (page.split(f"### `{name}`")[1] for name in ("vqa/mean_over_types", "retrieval/itc_txt_r1"))
    assert vqa.split("\n\n")[2] == "Evaluated on val (4,000 questions)."
    assert retrieval.split("\n\n")[2] == "Evaluated on 5 % of val (250 images)."
    assert rows(page, "Overview")["itc=on,bridge=off"][:3] == [
        "3",
        "0.600 ± 0.0173",
        "0.905 ± 0.00707, n = 2, 5 % of val",
    ]
    about = {"evaluated/val_questions": 20, "vqa/mean_over_types": 0.1}
    about |= {"evaluated/val_share": 0.005}  # an older run's, of all units
    sweep.put("runs/stage2/itc=on,bridge=off,seed=1/metrics.json", json.dumps(about))
    page = report(sweep.folder)
    assert "**Evaluated on different data:** val (4,000 questions): `itc=on,bridge=on`, `itc=off,bridge=on`, " in page
    assert "; 0.5 % of val (20 questions): `itc=on,bridge=off`." in page


def test_a_metric_says_by_which_rules_its_settings_were_evaluated_where_these_differ(sweep):
    for name, step in sweep.plan["steps"].items():
        beams = 3 if "bridge=off" in name else 5
        step["config"]["model"] |= {"vqa_num_beams": beams, "question": "{}", "caption_tokenizer": f"in {name}"}
        sweep.put(f"runs/{name}/metrics.json", json.dumps({"vqa/mean_over_types": 0.1, "loss/lm": 1.0}))
    page = report(sweep.write())
    vqa, loss = (page.split(f"### `{name}`")[1] for name in ("vqa/mean_over_types", "loss/lm"))
    assert vqa.split("\n\n")[2] == (
        "**Evaluated by different rules:** `vqa_num_beams=5`: `itc=on,bridge=on`, `itc=off,bridge=on`; "
        "`vqa_num_beams=3`: `itc=on,bridge=off`."
    )
    assert "different rules" not in loss.split("###")[0]


def test_pairs_that_were_asked_for_have_a_table_of_their_own(sweep):
    sweep.plan["compare"] = [["itc=on,bridge=off", "itc=off,bridge=on"], ["itc=off,bridge=off", "itc=on,bridge=off"]]
    page = report(sweep.write())
    _, asked = tables(page)["vqa/mean_over_types"]
    # .61, .61, .58 against .50, .53, .47: variances .0003 and .0009; two comparisons
    interval = stats.ttest_ind([0.61, 0.61, 0.58], [0.5, 0.53, 0.47], equal_var=False).confidence_interval(0.975)
    assert asked[1][:2] == ["itc=on,bridge=off against itc=off,bridge=on", "+0.100"]
    assert asked[1][2] == f"{interval.low:+.4f} to {interval.high:+.3f}"
    assert asked[1][-1] == "better" and asked[2][-1] == "too few seeds"
    assert "Compared together: m = 2, each interval at 97.5 %." in page
    _, loss = tables(page)["loss/lm"]
    assert loss[1][-1] == "better"  # smaller
    assert len(tables(page)["retrieval/itc_txt_r1"]) == 1  # no pair can have it


def test_what_is_not_there_is_named_and_is_no_zero(sweep):
    page = report(sweep.write())
    absent = ["1 failed, 2 waiting", "-", "0 of 3 (1 failed, 2 waiting)", *["-"] * 5, "too few seeds"]
    assert rows(page, "vqa/mean_over_types")["itc=off,bridge=off"] == absent
    retrieval = rows(page, "retrieval/itc_txt_r1")
    assert retrieval["itc=off,bridge=on"] == ["n/a", *["-"] * 8]
    assert retrieval["itc=on,bridge=off"][:3] == ["0.905", "0.00707", "2 of 3 (1 not finite)"]
    overview = rows(page, "Overview")
    assert overview["itc=on,bridge=off"] == ["3", "0.600 ± 0.0173", "0.905 ± 0.00707, n = 2", "1.40 ± 0.0173"]
    assert overview["itc=off,bridge=on"] == ["3", "0.500 ± 0.0300, worse", "n/a", "1.50 ± 0.0300, worse"]
    assert overview["itc=off,bridge=off"][:2] == ["0 of 3", "1 failed, 2 waiting"]


def test_how_intervals_were_made_is_said_in_numbers(sweep):
    page = report(sweep.write())
    vqa, loss = (page.split(f"### `{name}`")[1].split("\n#")[0] for name in ("vqa/mean_over_types", "loss/lm"))
    assert "Larger is better" in vqa and "Smaller is better" in loss
    assert "m = 3, each interval at 98.33 %" in vqa and '"Too few seeds": fewer than two in a setting.' in vqa
    assert "over seeds alone: no results per image are known" in vqa and "Welch's t over seeds" in page
    retrieval = page.split("### `retrieval/itc_txt_r1`")[1].split("\n#")[0]
    assert "m = 1. The intervals are over seeds alone" in retrieval and "Too few" not in retrieval


def test_shared_steps_are_spent_once(sweep):
    folder = sweep.write()
    page = report(folder)
    # 6 stage 1 of 100 s and 9 stage 2 of 30 s; ended cells use the stage 1: on 2 x 3, off 1 x 3 and 1 failed
    assert "**Spent:** 14 min 30 s" in page and "**Without sharing:** 21 min 10 s" in page
    assert "**Time not spent:** 6 min 40 s (31 %)" in page
    cost = rows(page, "Cost")
    assert cost["itc=on,bridge=on,seed=0"] == ["done", "2 min 10 s", "1 min 40 s", "1,460", "2.50"]
    assert cost["itc=off,bridge=off,seed=0"][:2] == ["failed", "1 min 40 s (1 of 2 steps)"]


def test_failed_cells_show_step_message_and_log(sweep):
    page = report(sweep.write())
    failed = page.split("## Failed cells")[1].split("\n## ")[0]
    assert "### `itc=off,bridge=off,seed=0`" in failed
    assert "Step `stage2/itc=off,bridge=off,seed=0`: loss is nan at step 3 | of 780" in failed
    assert "```text\nstep 2 loss 9.1\n<b>step 3 loss nan</b>\n```" in failed


def test_config_differences_are_those_of_the_setting(sweep):
    found = tables(report(sweep.write()))
    itc = ["stage1 fit", "model.net.itc", '{"projection": 8}', "null", "0, 1, 2"]
    bridge = ["stage2 fit", "model.bridge", "true", "false", "0, 1, 2"]
    assert found["itc=off,bridge=on"][0][1:] == [itc]
    assert found["itc=on,bridge=off"][0][1:] == [bridge]
    assert found["itc=off,bridge=off"][0][1:] == [itc, bridge]


def test_where_it_ran(sweep):
    sweep.plan["dirty"] = True
    found = rows(report(sweep.write()), "Where it ran")
    assert found["commit"] == ["0123abcd, with uncommitted changes"]
    assert (found["torch"], found["machine"], found["workers"]) == (["2.11.0"], ["2 cores"], ["2"])


def test_the_csv_has_a_row_for_each_cell_and_nothing_for_nothing(sweep):
    found = csv_rows(sweep.write())
    assert list(found[0]) == [
        *("cell", "itc", "bridge", "seed", "state", "vqa/mean_over_types", "retrieval/itc_txt_r1", "loss/lm"),
        *("seconds", "steps", "peak_memory_gib", "shared_seconds"),
    ]
    assert [row["cell"] for row in found] == [cell["name"] for cell in sweep.plan["cells"]]
    seed1 = [
        *("itc=off,bridge=on,seed=1", "off", "on", "1", "done", "0.53", "", "1.47"),
        "130.0",
        "1460",
        "2.5",
        "100.0",
    ]
    assert list(found[4].values()) == seed1
    assert found[9]["state"] == "failed" and found[9]["vqa/mean_over_types"] == "" and found[10]["state"] == "waiting"


def test_the_html_needs_nothing_beside_it(sweep):
    sweep.plan["question"] = "See <script>alert(1)</script>, ![x](http://a.b/c.png) and [y](https://a.b)"
    folder = sweep.write()
    write_report(folder)
    page = Sources()
    text = (folder / "report.html").read_text()
    page.feed(text)
    assert page.loaded and all(source.startswith("data:image/png;base64,") for source in page.loaded)
    assert not {"script", "link", "iframe", "b", "a"} & set(page.tags)
    assert "<script>alert(1)</script>" in "".join(page.words) and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert page.tags.count("picture") == len(list((folder / "plots").glob("*.png"))) == 6
    assert '<td class="worse">worse</td>' in text and page.tags.count("table") == 14


def test_the_plots_that_the_page_shows_are_there(sweep):
    folder = sweep.write()
    write_report(folder)
    shown = re.findall(r"!\[[^]]*\]\((plots/[^)]+)\)", (folder / "report.md").read_text())
    assert len(shown) == len(set(shown)) == 6
    assert "plots/forgetting.stage2.vqa-mean_over_types.png" in shown
    for path in shown:
        with Image.open(folder / path) as image:
            assert min(image.size) > 200 and image.convert("L").getextrema()[0] < 100


def test_a_sweep_that_has_not_begun(sweep):
    for file in [*sweep.folder.glob("cells/*"), *sweep.folder.rglob("done.json"), *sweep.folder.rglob("*.jsonl")]:
        file.unlink()
    page = report(sweep.write())
    assert "0 done, 0 failed, 12 running or waiting, of 12" in page and "No step has ended yet." in page
    assert rows(page, "Overview")["itc=on,bridge=on (control)"] == ["0 of 3", *["waiting"] * 3]
    assert "![" not in page and {row["seconds"] for row in csv_rows(sweep.folder)} == {""}


def test_a_sweep_without_cells(new_sweep):
    assert "no cell has ended yet" in report(new_sweep.write())


def test_one_seed_gives_a_difference_and_no_verdict(sweep):
    sweep.plan["cells"] = [cell for cell in sweep.plan["cells"] if cell["seed"] == 0]
    found = rows(report(sweep.write()), "vqa/mean_over_types")
    assert found["itc=off,bridge=on"] == ["0.500", "-", "1", "-0.100", *["-"] * 4, "too few seeds"]


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (None, "The sweep has no control"),
        ({"itc": "on"}, "The sweep has no control"),
        ({"bridge": "on", "itc": "off"}, "The control cannot have this metric (n/a)"),
    ],
)
def test_without_a_control_nothing_is_compared(sweep, control, said):
    sweep.plan["control"] = control
    page = report(sweep.write())
    assert said in page.split("### `retrieval/itc_txt_r1`")[1].split("\n#")[0]
    assert {row[-1] for row in rows(page, "retrieval/itc_txt_r1").values()} <= {"-", "control", "verdict"}


def test_many_settings_share_colours(new_sweep):
    queries = [str(n) for n in range(12)]
    new_sweep.plan.update(axes={"queries": queries, "itc": ["on"]}, seeds=[0], metrics=["vqa/accuracy"])
    for n in queries:
        new_sweep.step(f"stage2/{n}", seconds=1.0)
        name = new_sweep.cell({"queries": n, "itc": "on"}, 0, [f"stage2/{n}"], {"vqa/accuracy": f"stage2/{n}"})
        new_sweep.ended(name, **{"vqa/accuracy": 0.5})
        new_sweep.validated(f"stage2/{n}", [{"step": s, "vqa/accuracy": s / 9, "loss/lm": 1 / s} for s in (1, 2)])
    write_report(new_sweep.write())
    assert (new_sweep.folder / "plots/forgetting.stage2.vqa-accuracy.png").is_file()


def test_labels_that_look_like_markup_stay_in_their_cells(new_sweep):
    new_sweep.plan.update(axes={"prompt": ["a|b", "`_c_`"]}, seeds=[0], metrics=["vqa/accuracy"])
    for prompt, value in (("a|b", 0.25), ("`_c_`", 0.75)):
        new_sweep.step(f"test/{prompt}", "test", seconds=1.0)
        name = new_sweep.cell({"prompt": prompt}, 0, [f"test/{prompt}"], {"vqa/accuracy": f"test/{prompt}"})
        new_sweep.ended(name, **{"vqa/accuracy": value})
    found = rows(report(new_sweep.write()), "Overview")
    assert found["prompt=a|b"] == ["1", "0.250"] and found["prompt=`_c_`"] == ["1", "0.750"]


@pytest.fixture
def search(new_sweep):
    lr = {"key": "stage2.model.lr", "low": 1e-5, "high": 1e-2, "log": True}
    ranges = {"lr": lr, "dropout": {"key": "stage2.model.dropout", "low": 0, "high": 0.3, "log": False}}
    new_sweep.plan["search"] = {"objective": "vqa/accuracy", "direction": "maximize", "ranges": ranges}
    new_sweep.plan["metrics"] = ["vqa/accuracy"]
    states = ["done", "done", "pruned", "failed", "done"]
    for n, (state, value) in enumerate(zip(states, [0.4, 0.6, 0.7, None, 0.5])):
        own = {"labels": {"lr": f"{10.0**-n:g}", "dropout": "0.1"}, "seed": 0}
        metrics = {} if value is None else {"vqa/accuracy": value}
        error = {"step": "stage2", "message": "out of memory", "log_tail": []} if state == "failed" else None
        new_sweep.ended(f"trial={n}", state, error, own, **metrics)
    return new_sweep


@pytest.mark.parametrize(("direction", "order"), [("maximize", "1 4 0 2 3"), ("minimize", "0 4 1 2 3")])
def test_a_search_ranks_its_trials(search, direction, order):
    search.plan["search"]["direction"] = direction
    page = report(search.write())
    trials = tables(page)["Trials"][0][1:]
    assert [row[1] for row in trials] == [f"trial={n}" for n in order.split()]
    assert [row[0] for row in trials] == ["1", "2", "3", "-", "-"]
    assert trials[-1][2:5] == ["failed", "failed", "0.001"] and trials[-2][2:4] == ["pruned", "0.700"]
    assert {row[-1] for row in trials} == {"1 min 0 s"} and "The trials took 5 min 0 s" in page
    assert "3 done, 1 failed, 1 pruned, of 5 trials" in page and "out of memory" in page
    assert "plots/search.lr.png" in page and "plots/search.dropout.png" in page
    assert [row["lr"] for row in csv_rows(search.folder)] == ["1", "0.1", "0.01", "0.001", "0.0001"]


def test_a_search_is_drawn_against_each_range(search):
    write_report(search.write())
    assert {file.name for file in search.folder.glob("plots/*")} == {"search.lr.png", "search.dropout.png"}
    assert (search.folder / "report.html").read_text().count("<picture") == 2


def test_a_search_that_has_not_begun(search):
    for file in search.folder.glob("cells/*"):
        file.unlink()
    assert "no cell has ended yet" in report(search.write())


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("plan.json", "{", "plan.json cannot be read as JSON"),
        ("plan.json", "[1]", "plan.json holds [1]"),
        ("plan.json", '{"name": "x"}', "plan.json: no 'cells'"),
        ("cells/itc=on,bridge=on,seed=0.json", '{"state"', "seed=0.json cannot be read as JSON"),
        ("cells/itc=on,bridge=on,seed=0.json", '{"state": "fine"}', "state 'fine' is none of done, failed, pruned"),
        ("cells/itc=on,bridge=on,seed=0.json", '{"state": "done", "metrics": {"a": "x"}}', "a is 'x', not a number"),
        ("runs/stage1/itc=on,seed=0/done.json", "x", "done.json cannot be read as JSON"),
        ("runs/stage1/itc=on,seed=0/done.json", '{"seconds": "1"}', "seconds is '1', not a number"),
        ("runs/stage1/itc=on,seed=0/validation.jsonl", '{"step": 1}\n{"st\n', "validation.jsonl, line 2"),
    ],
)
def test_damaged_files_are_named(sweep, path, content, said):
    folder = sweep.write()
    sweep.put(path, content)
    with pytest.raises(SweepError, match=re.escape(said)):
        write_report(folder)


def test_all_problems_are_told_at_once(sweep):
    sweep.plan["cells"][3]["steps"] = ["stage9/x"]
    sweep.plan["cells"][2]["seed"] = 1
    folder = sweep.write()
    sweep.put("cells/itc=on,bridge=on,seed=0.json", "x")
    with pytest.raises(SweepError) as found:
        write_report(folder)
    assert len(str(found.value).splitlines()) == 4
    assert "step 'stage9/x'" in str(found.value) and "the same labels and seed" in str(found.value)


def test_a_line_that_is_being_written_waits_for_the_next_report(sweep):
    folder = sweep.write()
    sweep.put("runs/stage1/itc=on,seed=0/validation.jsonl", '{"step": 1, "loss/itc": 2.0}\n{"step": 2, "lo')
    sweep.put("cells/.itc=on.json", "{")
    assert "Validated once only: there is no curve." in report(folder)


def test_a_cell_of_another_plan_is_left_out_and_said(sweep):
    sweep.ended("itc=maybe,seed=0", **{"vqa/mean_over_types": 0.9})
    page = report(sweep.write())
    assert "cells/itc=maybe,seed=0.json belongs to no cell of the plan" in page and "of 12 cells" in page


def edited(sweep, path: str, **values) -> None:
    """A file of a sweep with other values; what JSON has no word for is written as Python does."""
    sweep.put(path, json.dumps(json.loads((sweep.folder / path).read_text()) | values))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", math.nan),
        ("seconds", math.inf),
        ("seconds", 1.7e308),
        ("peak_memory_gib", -1.0),
        ("steps", 10**300),
        ("attempts", 10**400),
    ],
)
def test_a_record_of_a_step_with_no_number_of_this_world_is_refused(sweep, name, value):
    edited(sweep, "runs/stage1/itc=on,seed=0/done.json", **{name: value})
    with pytest.raises(SweepError, match=rf"seed=0/done\.json.*{name} is.*: remove it, and run the sweep again"):
        report(sweep.write())


def test_a_step_that_is_no_number_of_this_world_is_refused(sweep):
    run = "stage2/itc=on,bridge=on,seed=0"
    sweep.validated(run, [{"step": 10**300, "loss/lm": 1.0}])
    with pytest.raises(SweepError, match=rf"{run}/validation\.jsonl, line 1: step is 1000.*: remove the line"):
        report(sweep.write())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "null"])
def test_what_was_looked_at_is_not_known_where_that_is_no_number(sweep, number):
    pages = []
    for odd in ("", f', "evaluated/val_questions": {number}, "evaluated/val_step": {number}'):
        sweep.put("runs/stage2/itc=on,bridge=on,seed=0/metrics.json", f'{{"vqa/mean_over_types": 0.5{odd}}}')
        pages.append(report(sweep.write()))
    assert pages[0] == pages[1] and "Evaluated on" not in pages[1]


@pytest.mark.parametrize("label", ["abc", "nan", "1e999", ""])
def test_a_trial_at_no_number_is_refused(search, label):
    file = sorted(search.folder.glob("cells/*"))[0]
    edited(search, f"cells/{file.name}", labels={"lr": label})
    with pytest.raises(SweepError, match=rf"cells/{file.name}: label lr is '{label}', where a number is wanted"):
        report(search.write())


def test_a_time_without_a_zone_is_of_utc(search):
    """The others' cells took a minute, and this one too."""
    before = report(search.write())
    file = sorted(search.folder.glob("cells/*"))[0]
    edited(search, f"cells/{file.name}", began="2026-01-01T01:00:00+01:00")
    assert report(search.folder) == before


def test_a_spreadsheet_runs_nothing_of_cells_csv(new_sweep):
    """Numbers are left as they are, also below zero."""
    new_sweep.plan.update(axes={"=cmd": [], "lr": []}, metrics=["@SUM(1)"])
    new_sweep.cell({"=cmd": "=HYPERLINK(1)", "lr": "-0.5"}, 0, [], {"@SUM(1)": None})
    new_sweep.cell({"=cmd": "+1+cmd|x", "lr": "+2"}, 1, [], {"@SUM(1)": None})
    rows = csv_rows(new_sweep.write())
    assert [(row["'=cmd"], row["lr"], row["'@SUM(1)"]) for row in rows] == [
        ("'=HYPERLINK(1)", "-0.5", ""),
        ("'+1+cmd|x", "+2", ""),
    ]
    assert [row["cell"][:2] for row in rows] == ["'=", "'="]


def test_no_escape_of_a_terminal_stands_in_a_report(sweep):
    escape = "\x1b[2J\u202e"
    sweep.plan.update(name=f"a{escape}", question=f"why {escape}?", machine=f"{escape}b")
    name = "itc=off,bridge=off,seed=0"
    error = {"step": f"stage2/{name}", "message": f"loss {escape}", "log_tail": [f"step {escape}\n"]}
    sweep.ended(name, "failed", error=error)
    write_report(sweep.write())
    for file in ("report.md", "report.html", "cells.csv"):
        text = (sweep.folder / file).read_text()
        assert not set(text) & set(escape[0] + escape[-1]), file
    assert "step \\x1b[2J\\u202e" in (sweep.folder / "report.md").read_text()


def test_a_report_made_again_is_the_same(search):
    folder = search.write()
    once = {file: file.read_bytes() for file in write_report(folder)}
    assert {file: file.read_bytes() for file in write_report(folder)} == once


def test_the_command_says_where_the_report_is(sweep, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lit_blip2", "report", str(sweep.write())])
    assert not main()
    assert capsys.readouterr().out.splitlines()[-1] == str(sweep.folder / "report.md")


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("tests", "no plan.json in 'tests': give the folder that `sweep --out` wrote"),
        ("nowhere", "no folder 'nowhere'\n"),
        ("ablations/resultss", "no folder 'ablations/resultss', did you mean 'results'"),
    ],
)
def test_a_folder_that_is_no_sweep_says_so(folder, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lit_blip2", "report", folder])
    assert main() == 2
    assert words in capsys.readouterr().err


@pytest.mark.run
def test_the_report_needs_no_torch(sweep):
    code = (
        "import sys; from lit_blip2.__main__ import main; main()\n"
        "heavy = {'torch', 'lightning', 'pandas', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, "report", str(sweep.write())]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_page_shows_its_own_plots_alone():
    """A text that slipped through as Markdown names a picture that is nobody's."""
    page = Sources()
    page.feed(to_html("# a ![x](b.png) ![<y>](http://evil/z.png 'z')", "title", {}))
    assert not page.loaded and "img" not in page.tags and "a x <y>" in "".join(page.words)


def test_a_search_that_was_stopped_says_how_many_trials_it_was_to_make(new_sweep):
    ranges = {"lr": {"key": "stage1.model.lr", "low": 0.001, "high": 0.1, "log": True}}
    search = {"objective": "vqa/accuracy", "direction": "maximize", "ranges": ranges, "trials": 2}
    new_sweep.plan |= {"search": search, "metrics": ["vqa/accuracy"], "seeds": [0]}
    new_sweep.ended("trial=0", extra={"labels": {"lr": "0.01"}, "steps": []}, **{"vqa/accuracy": 0.5})
    assert "> **This sweep is still running** (or was stopped): 1 of its 2 trials have ended." in report(
        new_sweep.write()
    )
    assert found(read_sweep(new_sweep.folder)).cells == 2
    new_sweep.plan["search"]["trials"] = 1
    assert "still running" not in report(new_sweep.write())


@pytest.mark.parametrize("name", ["trial=0 (copy)", "trial=7", "trial=01", "best"])
def test_a_file_that_is_no_trials_is_named_and_not_counted(search, name):
    search.plan["search"]["trials"] = 6
    (search.folder / f"cells/{name}.json").write_text((search.folder / "cells/trial=0.json").read_text())
    page = report(search.write())
    assert "5 of its 6 trials have ended" in page and "3 done, 1 failed, 1 pruned, of 6 trials" in page
    assert f"cells/{name}.json is no trial's: left out." in page and len(tables(page)["Trials"][0]) == 1 + 5


def test_a_trial_that_was_made_before_there_were_to_be_fewer_counts(search):
    search.plan["search"]["trials"] = 2
    edited(search, "cells/trial=4.json", name="trial=4")
    assert "3 done, 0 failed, 0 pruned, of 3 trials" in report(search.write())
    assert {row["cell"] for row in csv_rows(search.folder)} == {"trial=0", "trial=1", "trial=4"}


def test_a_record_of_another_cell_is_refused(sweep):
    copy, name = sweep.folder / "cells/itc=off,bridge=off,seed=1.json", "itc=on,bridge=on,seed=0"
    copy.write_text((sweep.folder / f"cells/{name}.json").read_text())
    with pytest.raises(SweepError, match=rf"cells/itc=off,bridge=off,seed=1.json is the record of {name}: remove it"):
        report(sweep.write())


def test_a_record_of_another_trial_is_refused(search):
    edited(search, "cells/trial=0.json", name="trial=2")
    with pytest.raises(SweepError, match=r"cells/trial=0.json is the record of trial=2: remove it"):
        report(search.write())
