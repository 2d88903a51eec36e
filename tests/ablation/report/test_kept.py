"""What is kept of a sweep makes the same report, with the same intervals over images, and is small."""

import json

import numpy as np
import pytest

from lit_blip2.ablation.folder import SweepError
from lit_blip2.ablation.kept import keep
from lit_blip2.ablation.report import page
from lit_blip2.ablation.report.cells_csv import cells_csv
from lit_blip2.ablation.report.page import report_markdown
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.report.summary import found
from lit_blip2.commands.report import main
from lit_blip2.contents import DataError
from lit_blip2.evaluation.items import FILE, Items, write_items
from tests.ablation.report.blank import Blank

METRIC = "vqa/mean_over_types"
TYPES = np.array(["colour", "count", "existence", "relation", "shape"])


@pytest.fixture
def tested(new_sweep):
    """Stage 2 with and without stage 1 at 8 seeds, validated, and tested on 5000 questions on 1000 images."""
    plan, rng = new_sweep.plan, np.random.default_rng(0)
    plan.update(axes={"stage1": ["on", "off"]}, seeds=list(range(8)), metrics=[METRIC, "loss/lm"])
    plan["control"] = {"stage1": "on"}
    asked = {"metric": METRIC, "better": {"stage1": "on"}, "than": {"stage1": "off"}, "by": 0.05}
    plan["expected"] = [asked, asked | {"at": 200}]
    images = np.repeat(np.arange(1000), 5)
    for label, mean in {"on": 0.6, "off": 0.4}.items():
        for seed in range(8):
            labels = {"stage1": label}
            stage2, vqa = (f"{step}/stage1={label},seed={seed}" for step in ("stage2", "vqa"))
            new_sweep.step(stage2, config={"model": {"init_from": label}}, seconds=30.0, steps=400)
            new_sweep.step(vqa, "test", seconds=3.0)
            losses = [{"step": at, METRIC: mean + rng.normal(0, 0.01), "loss/lm": 400 / at} for at in (100, 200, 400)]
            new_sweep.validated(stage2, losses)
            new_sweep.put(f"runs/{stage2}/metrics.json", json.dumps({"loss/lm": 1.0}))
            name = new_sweep.cell(labels, seed, [stage2, vqa], {METRIC: vqa, "loss/lm": stage2})
            right = (rng.random(5000) < mean + rng.normal(0, 0.02)).astype(float)
            items = Items(right, images, np.arange(5000), TYPES[np.arange(5000) % 5])
            run = new_sweep.folder / "runs" / vqa
            write_items(run / FILE, {METRIC: items, "vqa/accuracy": items})
            new_sweep.put(f"runs/{vqa}/metrics.json", json.dumps({METRIC: items.value()}))
            new_sweep.put(f"runs/{vqa}/log.txt", "much" * 10_000)
            told = {"keys": {stage2: stage2, vqa: vqa}, "commit": "0123abcd", "dirty": False}
            new_sweep.ended(name, extra=told, **{METRIC: items.value(), "loss/lm": 1.0})
    return new_sweep


def test_what_is_kept_makes_the_same_report(tested, tmp_path):
    keep(tested.write(), tmp_path / "kept")
    first, second = (read_sweep(folder) for folder in (tested.folder, tmp_path / "kept"))
    pages = [(report_markdown(each, "DIR", Blank()), cells_csv(each), found(each)) for each in (first, second)]
    assert pages[0] == pages[1]
    assert "The intervals are over seeds and 1,000 images." in pages[1][0]
    assert first.validations == second.validations  # the rest of what plots are made of
    assert not list((tmp_path / "kept").rglob("log.txt"))


def test_sixteen_cells_of_five_thousand_questions_are_small(tested, tmp_path):
    keep(tested.write(), tmp_path / "kept")
    files = [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 350_000


def test_the_command_keeps_and_reports(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "Plots", Blank)
    out = tmp_path / "results" / "objectives"
    main([str(sweep.write()), "--out", str(out)])
    assert str(out / "report.md") in capsys.readouterr().out
    first = (out / "report.md").read_text()
    assert f"`python -m lit_blip2 report {out}`" in first.splitlines()[0]
    assert (out / "cells.csv").exists() and list(out.glob("plots/*.png"))
    main([str(out)])
    assert (out / "report.md").read_text() == first
    main([str(sweep.folder), "--out", str(out)])  # hourly


def test_cells_of_two_sweeps_are_not_mixed(sweep, tmp_path):
    keep(sweep.write(), tmp_path / "kept")
    (sweep.folder / "cells" / "itc=on,bridge=on,seed=0.json").unlink()
    with pytest.raises(SweepError, match=r"holds 1 cells that .* has not, the first itc=on,bridge=on,seed=0: remove"):
        keep(sweep.folder, tmp_path / "kept")
    (sweep.folder / "locks").mkdir()
    with pytest.raises(SweepError, match="a folder in which a sweep runs"):
        keep(tmp_path / "kept", sweep.folder)
    with pytest.raises(SweepError, match=r"no plan\.json in"):
        keep(tmp_path, tmp_path / "kept")


def test_a_damaged_file_is_not_kept(tested, tmp_path):
    (tested.folder / "runs" / "vqa" / "stage1=on,seed=0" / FILE).write_bytes(b"PK")
    with pytest.raises(DataError, match="is damaged or cut"):
        keep(tested.write(), tmp_path / "kept")


def test_a_record_of_other_code_than_the_plan_says_is_refused(tested):
    tested.write()
    plan = json.loads((tested.folder / "plan.json").read_text())
    plan["steps"]["vqa/stage1=on,seed=0"]["key"] = "another"
    tested.put("plan.json", json.dumps(plan))
    with pytest.raises(SweepError) as refused:
        read_sweep(tested.folder)
    said = "vqa/stage1=on,seed=0 is of other settings, data or code than plan.json says: remove it, "
    lines = str(refused.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "cells/stage1=on,seed=0.json",
        "runs/vqa/stage1=on,seed=0/done.json",
    ] and all(said in line for line in lines)


def test_cells_of_several_commits_are_named(tested):
    assert "several commits" not in report_markdown(read_sweep(tested.write()), "x", Blank())
    name = "stage1=off,seed=7"
    metrics = json.loads((tested.folder / "cells" / f"{name}.json").read_text())["metrics"]
    tested.ended(name, extra={"commit": "4567cdef", "dirty": True}, **metrics)
    text = report_markdown(read_sweep(tested.folder), "x", Blank())
    assert (
        "**Cells of several commits:** `0123abcd` (15 cells), `4567cdef`, with uncommitted changes (1 cells). "
        "What their steps use is the same in all (plan.json)." in text
    )
