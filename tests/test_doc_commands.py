"""Each command that README and docs print is one that the command line takes: fits and tests are resolved with all
their settings, of the others the options are looked up in their help."""

import re
import shlex
from pathlib import Path

import pytest

from lit_blip2.__main__ import OTHERS, TRAINING, run
from lit_blip2.ablation.run.plan import ask
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.commands.sweep import parser as options_of_sweeps
from lit_blip2.data.experiment import is_setting

RUN_ELSEWHERE = {"extend.md"}  # runs what it prints, on files of its own: tests/lit/test_extend.py
PAGES = [Path("README.md"), *sorted(each for each in Path("docs").glob("*.md") if each.name not in RUN_ELSEWHERE)]
PROGRAM = "python -m lit_blip2 "
PLACES = {"FILE": "experiments/mini_stage1.yaml"}  # a word in the place of an experiment


def commands() -> list[list[str]]:
    """Words of each printed command; what stands in brackets may be left out, and is looked at too."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(rf"^ {{4}}{PROGRAM}(.+)$", text, re.MULTILINE):
            line = re.sub(r"\s#\s?.*$", "", line)
            line = re.sub(r"\[(--[^\[\]]+)\]", r"\1", line)
            found.append(shlex.split(line))
    return found


def test_docs_print_commands_that_there_are():
    names = {words[0] for words in commands()}
    assert {"fit", "test", "sweep", "ask"} <= names <= {*TRAINING, *OTHERS}


def test_files_that_commands_name_are_there():
    named = {word.split("=")[-1] for words in commands() for word in words}
    files = {name for name in named if name.startswith(("experiments/", "ablations/")) and name.endswith(".yaml")}
    assert files and not [name for name in files if not list(Path().glob(name))]


def test_sweeps_are_read_as_grids():
    """Their scales and their settings of steps too."""
    parsed = [options_of_sweeps().parse_args(words[1:]) for words in commands() if words[0] == "sweep"]
    grids = [read_grid(each.config, each.scale, each.set) for each in parsed]
    assert len(grids) > 9 and any("stage2.trainer.logger" in grid.settings for grid in grids)


@pytest.mark.slow
def test_fits_and_tests_are_resolved():
    wanted = [words for words in commands() if words[0] in TRAINING]
    given = [[PLACES.get(word, word) for word in _without_checkpoint(words)] for words in wanted]
    requests = [{"command": command, "arguments": rest, "files": False} for command, *rest in given]
    refused = {shlex.join(words): answer["error"] for words, answer in zip(given, ask(requests)) if "error" in answer}
    assert not refused


def _without_checkpoint(words: list[str]) -> list[str]:
    """It must be there, and no run is."""
    return [word for word, before in zip(words, ["", *words]) if "--ckpt_path" not in (word, before)]


@pytest.mark.run
@pytest.mark.parametrize("command", sorted(OTHERS))
def test_options_of_the_other_commands_are_in_their_help(command, capsys):
    wanted = [words for words in commands() if words[0] == command]
    for part in {(words[1],) if command == "data" else () for words in wanted}:  # data has commands of its own
        with pytest.raises(SystemExit):
            run(command, [*part, "--help"])
        told = capsys.readouterr().out
        of_part = [word for words in wanted if words[1 : 1 + len(part)] == [*part] for word in words]
        of_part = [word for word in of_part if not is_setting(word)]  # of an experiment, which `data` takes too
        assert not [word for word in of_part if word.startswith("--") and word.split("=")[0] not in told], part
