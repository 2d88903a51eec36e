"""The files that docs/extend.md prints, used as it says: a run of a few steps for each."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from lit_blip2.ablation.run.plan import make_plan
from lit_blip2.ablation.spec.read import read_grid

PAGE = Path("docs/extend.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """Write the file that a section prints to where the command looks for it; the arguments behind --config FILE."""

    def printed(section: str) -> list[str]:
        part = SECTIONS[section]
        for name, code in re.findall(r"^`([\w.]+)`.*?\n```\w+\n(.+?)```", part, re.MULTILINE | re.DOTALL):
            (tmp_path / name).write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        (command,) = re.findall(r"^ {4}python -m lit_blip2 (.+)$", part, re.MULTILINE)
        return shlex.split(command)[3:]

    return printed


def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_an_objective(printed, fit):
    assert metrics(fit("mini_stage1", *printed("An objective of stage 1")))["loss/spread"] > 0


def test_a_bridge(printed, fit):
    assert "thin.Thin" in (fit("mini_opt", *printed("A bridge")) / "config.yaml").read_text()


def test_a_language_model(printed, fit, opt_folder):
    given = [word.replace("weights/qwen3-0.6b", str(opt_folder)) for word in printed("A language model")]
    assert given == [f"--model.net.language.name={opt_folder}"]


def test_a_source_of_data(printed, fit, world, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(world / "images" / "train", mine)
    for picture in mine.glob("*.png"):
        picture.with_suffix(".txt").write_text("a red square\na square at left\n")
    given = [word.replace("beside.yaml", f"{tmp_path}/beside.yaml") for word in printed("A source of data")]
    given += [f"--data.root={mine}", "--data.batch_size=8"]
    assert "beside.Beside" in (fit("mini_stage1", *given) / "config.yaml").read_text()


def test_a_metric(printed, fit):
    assert metrics(fit("mini_opt", *printed("A metric")))["caption/words"] > 0


def test_in_a_sweep(printed, tmp_path):
    printed("An objective of stage 1")
    assert printed("In a sweep") == ["--workers", "2"]
    grid = read_grid(tmp_path / "spread.yaml")
    assert len(make_plan(grid, files=False).cells) == 6
