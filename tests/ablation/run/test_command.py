"""The command `sweep` where it cannot go on: an error with what to do, never a traceback."""

import sqlite3

import pytest
import yaml

from lit_blip2.ablation.run import begin, storage, sweep
from lit_blip2.ablation.schema import Cell, Plan

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

    def call(worker) -> int:
        monkeypatch.setattr(begin, "plan_or_space", lambda grid, files=True: (plan, worker))
        url = f"sqlite:///{tmp_path}/study.db"
        return sweep.main(["--config", write(tmp_path, GRID), "--out", str(tmp_path / "out"), "--storage", url])

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
    assert sweep.main(given) == 2 and not (tmp_path / "out").exists()
    assert "--retry-failed is for a grid" in capsys.readouterr().err
