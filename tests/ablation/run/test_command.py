"""The command `sweep` where it cannot go on: an error with what to do, never a traceback."""

import json
import signal
import sqlite3

import pytest
import yaml

from lit_blip2.ablation.run import begin, storage, sweep
from lit_blip2.ablation.schema import Cell, Plan
from lit_blip2.commands.sweep import main

GRID = {
    "steps": {"stage1": {"fit": "a.yaml"}},
    "axes": {"itc": {"on": {}}},
    "seeds": [0],
    "metrics": ["loss/itm"],
}
SEARCH = GRID | {"axes": {"lr": {"key": "stage1.model.lr", "low": 0.1, "high": 1.0}}, "trials": 2}


def write(tmp_path, content: dict) -> str:
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "trial.yaml")


def spoil(tmp_path, table: str, column: str) -> None:
    """Take a column away; Optuna makes a whole table anew."""
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO gone")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The sweep of one cell, with `worker` in place of those who run it."""
    cell = Cell(name="itc=on,seed=0", labels={"itc": "on"}, seed=0, steps=[], metrics={})
    plan = Plan(name="trial", axes={}, metrics=[], cells=[cell], steps={}, identity="x", sources="")

    def call(worker, *options: str) -> int:
        monkeypatch.setattr(begin, "plan_or_space", lambda grid, **_: (plan, worker))
        url = f"sqlite:///{tmp_path}/study.db"
        given = ["--config", write(tmp_path, GRID), "--out", str(tmp_path / "out"), "--storage", url]
        return main([*given, *options])

    return call


@pytest.mark.parametrize(("table", "column"), [("studies", "study_name"), ("trials", "state")])
def test_a_storage_that_fails_as_it_is_opened_or_filled_is_an_error(command, tmp_path, capsys, table, column):
    storage.open_storage(f"sqlite:///{tmp_path}/study.db")
    spoil(tmp_path, table, column)
    assert command(lambda job: None) == 2
    assert f"error: {storage.LOST_STORAGE} (" in capsys.readouterr().err


def test_a_storage_that_fails_as_the_sweep_ends_is_an_error(command, tmp_path, capsys):
    assert command(lambda job: spoil(tmp_path, "trials", "state")) == 2
    assert f"error: {storage.LOST_STORAGE} (" in capsys.readouterr().err


def test_a_search_does_not_try_again_what_failed_and_says_so(tmp_path, capsys):
    given = ["--config", write(tmp_path, SEARCH), "--out", str(tmp_path / "out"), "--retry-failed"]
    assert main(given) == 2 and not (tmp_path / "out").exists()
    assert "--retry-failed is for a grid" in capsys.readouterr().err


def test_a_sweep_keeps_the_scale_and_the_settings_of_its_command(command, tmp_path):
    command(lambda job: None, "--scale", "tiny", "--set", "stage1.model.lr=1", "--set=stage1.trainer.max_steps=4")
    asked = json.loads((tmp_path / "out" / "plan.json").read_text())["command"]
    begun = f"python -m lit_blip2 sweep --config {tmp_path}/trial.yaml --scale tiny"
    assert asked == f"{begun} --set stage1.model.lr=1 --set stage1.trainer.max_steps=4 --workers 1"


def test_what_a_scale_lacks_is_told_first(capsys, monkeypatch):
    monkeypatch.setattr(sweep, "dry_run", lambda *_: ("", [], True))
    assert main(["--config", "ablations/skip_stage1_as_read.yaml", "--scale", "vitb_opt125m", "--dry-run"]) == 0
    assert "left out: llm=t5: experiments/ has no T5 of this size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "stage3.model.lr=1"], "'stage3' is not known, did you mean 'stage1'"),
        (["--set", "stage1.model.lr"], "--set stage1.model.lr must be step.key=value"),
        (["--set", "stage1.model.lr={"], "--set stage1.model.lr={: '{' is no plain value of YAML"),
        (["--set", "stage1.model.lr=2024-01-01"], "'2024-01-01' is no plain value of YAML"),
        (
            ["--scale", "smal"],
            "no file 'ablations/scales/smal.yaml', did you mean 'ablations/scales/small.yaml'; there are: ",
        ),
    ],
)
def test_a_scale_or_a_setting_that_is_not_known_is_an_error(tmp_path, capsys, options, message):
    assert main(["--config", write(tmp_path, GRID), "--dry-run", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_sweep_leaves_signals_as_they_were(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert signal.getsignal(signal.SIGTERM) is before
