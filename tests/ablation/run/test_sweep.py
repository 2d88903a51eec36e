"""A real sweep: its YAML through the command line, real training runs in subprocesses, its report and TensorBoard."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_blip2.ablation.run import plan
from lit_blip2.commands.mini import make_mini
from lit_blip2.commands.report import main as report
from lit_blip2.commands.sweep import main
from lit_blip2.resolve import ParserOnly, build, resolve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """The ablation's file: stage 1 with ITC on and off, one of them also tested with other candidates."""
    folder = tmp_path_factory.mktemp("sweep")
    make_mini(folder / "mini", train=24, val=6, test=6, workers=1)
    settings = {
        "data.root": str(folder / "mini"), "data.batch_size": 8, "data.eval_batch_size": 6, "model.rerank": 3,
        "trainer.max_steps": 4, "trainer.val_check_interval": 2, "model.optimization.warmup_steps": 1,
        "trainer.enable_progress_bar": False,
    }  # fmt: skip
    content = {
        "question": "Does it run?",
        "expect": "Nothing.",
        "steps": {"stage1": {"fit": "experiments/mini_stage1.yaml", "set": settings}, "retrieval": {"test": "stage1"}},
        "axes": {"itc": {"on": {}, "off": {"stage1.model.net.itc": None}}},
        "seeds": [3],
        "metrics": ["loss/itm", "retrieval/itc_txt_r1"],
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def out(ablation, tmp_path_factory):
    """The sweep's folder, which no test writes into."""
    out = tmp_path_factory.mktemp("out") / "small"
    assert main(["--config", str(ablation), "--out", str(out), "--workers", "2"]) == 0
    return out


@pytest.fixture
def copy(out, tmp_path):
    return Path(shutil.copytree(out, tmp_path / "copy"))


@pytest.fixture
def resolving_here(monkeypatch):
    """Resolve cells in this process; `out` has shown the one that a sweep starts for it."""
    cli = build(ParserOnly, run=False)
    answers = lambda requests: json.loads(json.dumps([resolve(cli, **each) for each in requests]))  # noqa: E731
    monkeypatch.setattr(plan, "ask", answers)


def test_cells_hold_the_metrics_of_their_tests(out):
    for label in ("on", "off"):
        cell = json.loads((out / "cells" / f"itc={label},seed=3.json").read_text())
        tested = json.loads((out / "runs" / "retrieval" / f"itc={label},seed=3" / "metrics.json").read_text())
        assert cell["state"] == "done" and tested.items() <= cell["metrics"].items()
        assert ("retrieval/itc_txt_r1" in cell["metrics"]) == (label == "on")


def test_shipped_classes_read_nothing_of_anybody_else(out):
    assert all("reads" not in json.loads(file.read_text()) for file in out.glob("runs/*/*/done.json"))


def test_a_run_is_an_ordinary_one(out):
    run = out / "runs" / "stage1" / "itc=off,seed=3"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["net"]["init_args"]["itc"] is None
    assert (config["seed_everything"], config["data"]["init_args"]["seed"]) == (3, 3)
    assert (run / "checkpoints" / "last.ckpt").exists() and list(run.glob("events*"))
    assert [json.loads(line)["step"] for line in (run / "validation.jsonl").read_text().splitlines()] == [2, 4]


def test_the_report_has_a_row_per_cell_and_seed(out):
    rows = {row["cell"]: row for row in csv.DictReader((out / "cells.csv").open())}
    assert {row["seed"] for row in rows.values()} == {"3"} and len(rows) == 2
    for name, row in rows.items():
        metrics = json.loads((out / "cells" / f"{name}.json").read_text())["metrics"]
        assert float(row["loss/itm"]) == metrics["loss/itm"]
    assert rows["itc=off,seed=3"]["retrieval/itc_txt_r1"] == ""
    assert (out / "report.html").stat().st_size > 10_000 and "too few seeds" in (out / "report.md").read_text()


def test_the_same_command_finds_everything_done(ablation, copy, resolving_here, capfd):
    before = {file: file.stat().st_mtime for file in copy.glob("runs/**/*")}
    assert main(["--config", str(ablation), "--out", str(copy)]) == 0
    assert "2 done" in capfd.readouterr().out
    assert {file: file.stat().st_mtime for file in copy.glob("runs/**/*")} == before


def test_a_sweep_goes_on_from_the_records_beside_its_ablation(ablation, out, resolving_here, tmp_path, capfd):
    """As on a fresh clone: no run is there, and of one cell no record either."""
    here = Path(shutil.copy(ablation, tmp_path))
    kept = tmp_path / "results" / "small"
    report([str(out), "--out", str(kept)])
    (kept / "cells" / "itc=off,seed=3.json").unlink()
    assert main(["--config", str(here), "--out", str(tmp_path / "out")]) == 0
    assert f"1 of 2 cells are taken from {kept}" in " ".join(capfd.readouterr().out.split())
    ran = {str(file.parent.relative_to(tmp_path / "out" / "runs")) for file in tmp_path.glob("out/runs/*/*/log.txt")}
    assert ran == {"stage1/itc=off,seed=3", "retrieval/itc=off,seed=3"}
    for label in ("on", "off"):
        cells = [json.loads((each / f"cells/itc={label},seed=3.json").read_text()) for each in (out, tmp_path / "out")]
        assert cells[0]["metrics"] == cells[1]["metrics"] and cells[0]["keys"] == cells[1]["keys"]
    report([str(tmp_path / "out"), "--out", str(kept)])
    assert main(["--config", str(here), "--out", str(tmp_path / "again")]) == 0
    assert f"2 of 2 cells are taken from {kept}" in " ".join(capfd.readouterr().out.split())
    assert (tmp_path / "again" / "cells.csv").read_text() == (kept / "cells.csv").read_text()
    assert main(["--config", str(here), "--dry-run"]) == 0
    assert "2 of 2 cells are taken from" in capfd.readouterr().out


def test_a_step_whose_metrics_are_lost_is_made_anew_beside_what_it_had_left(ablation, copy, resolving_here, capfd):
    """One has lost its metrics and its record; another has metrics of an earlier validation than its checkpoint."""
    before = {file.name: json.loads(file.read_text())["metrics"] for file in copy.glob("cells/*.json")}
    older, lost = (copy / "runs/stage1" / f"itc={label},seed=3" for label in ("on", "off"))
    metrics = json.loads((older / "metrics.json").read_text())
    (older / "metrics.json").write_text(json.dumps(metrics | {"evaluated/val_step": 2.0, "loss/itm": 9.0}))
    for file in (lost / "metrics.json", lost / "done.json", copy / "cells/itc=off,seed=3.json"):
        file.unlink()
    assert main(["--config", str(ablation), "--out", str(copy)]) == 0
    assert "2 done" in capfd.readouterr().out
    assert {file.name: json.loads(file.read_text())["metrics"] for file in copy.glob("cells/*.json")} == before
    for run in (older, lost):
        kept = copy / "before/1" / run.relative_to(copy / "runs")
        assert (kept / "checkpoints/last.ckpt").exists() and not (kept / "log.txt").exists()
        assert [each.name for each in (run / "checkpoints").iterdir()] == ["last.ckpt"]
        assert json.loads((run / "metrics.json").read_text())["evaluated/val_step"] == 4
        assert json.loads((run / "done.json").read_text())["attempts"] == 2


def test_a_training_that_somebody_has_gone_on_with_is_tested_again(ablation, copy, resolving_here):
    """By hand and by two steps. The other cell's steps stay."""
    name = "itc=off,seed=3"
    training, test = (copy / "runs" / step / name for step in ("stage1", "retrieval"))
    fit = [sys.executable, "-m", "lit_blip2", "fit", "--config", str(copy / f"configs/stage1/{name}.yaml")]
    where = ["--ckpt_path", str(training), f"--trainer.logger.init_args.save_dir={copy / 'runs'}"]
    subprocess.run([*fit, *where, "--trainer.max_steps=6"], check=True, capture_output=True)
    before = (copy / "runs/retrieval/itc=on,seed=3/done.json").read_text()
    assert main(["--config", str(ablation), "--out", str(copy)]) == 0
    assert json.loads((test / "metrics.json").read_text())["evaluated/test_step"] == 6
    assert json.loads((test / "done.json").read_text())["parents"] == {f"stage1/{name}": 6}
    assert (copy / "runs/retrieval/itc=on,seed=3/done.json").read_text() == before
    record = json.loads((copy / f"cells/{name}.json").read_text())
    assert record["reached"] == {
        f"stage1/{name}": {"planned": 4, "made": 6, "measured": None},
        f"retrieval/{name}": {"planned": None, "made": 6, "measured": 6},
    }
    shutil.rmtree(copy / "runs")
    assert not report([str(copy)])
    assert f"> **More steps than planned:** `stage1/{name}` (6 of 4)." in (copy / "report.md").read_text()


def test_another_grid_in_the_same_folder_is_refused(ablation, copy, resolving_here, tmp_path, capsys):
    changed = yaml.safe_load(ablation.read_text()) | {"seeds": [3, 4]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    assert main(["--config", str(tmp_path / "small.yaml"), "--out", str(copy)]) == 2
    assert "another grid: 0 of its cells are not in this one, 2 are new" in capsys.readouterr().err


def test_what_cannot_be_run_is_an_error_before_anything_starts(ablation, resolving_here, tmp_path, capfd):
    misspelt, refused = {"stage1.model.net.itcc": None}, {"stage1.model.net.qformer.num_queries": 0}
    axes = {"itc": {"on": {}, "off": misspelt}, "queries": {"24": {}, "0": refused}}
    changed = yaml.safe_load(ablation.read_text()) | {"axes": axes}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    assert main(["--config", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "itc=off,queries=24, step stage1" in said and "Option 'itcc' is not accepted" in said
    assert "itc=on,queries=0, step stage1 (and 1 more such steps): num_queries=0 must be at least 1" in said
    assert not (tmp_path / "out" / "runs").exists()


def test_a_killed_sweep_resumes_a_run_from_its_last_checkpoint(ablation, tmp_path):
    """SIGKILL to the whole group behind the first of four checkpoints. (How a resumed run ends, test_runs says.)"""
    content = yaml.safe_load(ablation.read_text())
    content |= {"axes": {"itc": {"on": {}}}, "metrics": ["loss/itm"]}
    content["steps"] = {"stage1": content["steps"]["stage1"]}
    callbacks = [
        {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "save_top_k": 1}},  # at each validation
        {"class_path": "tests.ablation.run.kill_once.KillOnce", "init_args": {"step": 10}},
    ]
    settings = {"trainer.max_steps": 40, "trainer.val_check_interval": 10, "trainer.callbacks": callbacks}
    content["steps"]["stage1"]["set"] |= settings
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    arguments = ["--config", str(tmp_path / "killed.yaml"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "lit_blip2", "sweep", *arguments]
    assert subprocess.run(command, start_new_session=True, capture_output=True).returncode == -signal.SIGKILL
    run = tmp_path / "out" / "runs" / "stage1" / "itc=on,seed=3"
    assert (run / "checkpoints" / "last.ckpt").exists() and not (run / "done.json").exists()
    assert main(arguments) == 0
    assert "Restored all states from the checkpoint" in (run / "log.txt").read_text()
    steps = [json.loads(line)["step"] for line in (run / "validation.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30, 40]
    cell = json.loads((tmp_path / "out" / "cells" / "itc=on,seed=3.json").read_text())
    assert cell["state"] == "done" and cell["metrics"]["loss/itm"] > 0
    assert list(json.loads((run / "done.json").read_text())["reads"]) == ["tests/ablation/run/kill_once.py"]
