"""The files of others that a step reads, seen in a real process, and what a change of one does to a sweep."""

import importlib.util
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_blip2.ablation.folder import Folder, read, write
from lit_blip2.ablation.run import fingerprint, reads
from lit_blip2.ablation.run.reads import ChangedError, asked_to_record, check_unchanged, collect
from lit_blip2.ablation.run.unseen import libraries
from lit_blip2.ablation.schema import Done, Plan
from lit_blip2.sources import PACKAGE
from tests.ablation.run.test_done import RUN as ENDED
from tests.ablation.run.test_done import done_of

SOURCE = """
import importlib.resources
import sqlite3
import subprocess
from pathlib import Path
from .layers import Layer
from mine import compiled
import helper

HERE = Path(__file__).parent
NAME = "_".join(["words", "en"])
(HERE / f"{NAME}.txt").read_text()
importlib.resources.files("mine.tables").joinpath("gains.tsv").read_bytes()
[file.read_text() for file in HERE.glob("lists/*.txt")]
WEIGHTS = HERE / "weights" / "head.safetensors"  # read by code that Python does not see
(HERE / "log.csv").open("a").write("x")
(HERE / "cache.json").write_text("[]")
(HERE / "cache.json").read_text()
for language in ("de", "fr"):
    for folder in sorted((HERE / "by_language").iterdir()):
        [file.read_text() for file in folder.glob("*.csv")]
try:
    (HERE / f"{NAME}.more").read_text()
except FileNotFoundError:
    pass
(HERE / "sizes.bin").open("r+b").read()
sqlite3.connect(HERE / f"{NAME}.db").execute("pragma schema_version").fetchall()
subprocess.run(["cat", f"{NAME}.args"], check=True)
open("data/captions.json").read()
"""
RUN = ENDED.model_copy(update={"config": {"data": {"root": "data"}, "class_path": "mine.bridges.Wide"}})
BEGAN = time.time() + 3600  # a clock that is ahead: what the tests have just written was there before
COUNTED = {
    "mine/__init__.py",
    "mine/bridges.py",
    "mine/layers.py",
    "mine/compiled.so",
    "mine/words_en.txt",
    "mine/tables/__init__.py",
    "mine/tables/gains.tsv",
    "mine/lists/a.txt",
    "mine/lists/*.txt",
    "mine/weights/head.safetensors",
    "mine/by_language/de/a.csv",
    "mine/by_language/de/*.csv",
    "mine/by_language/*/",
    "mine/words_en.more",
    "mine/words_en.db",
    "mine/sizes.bin",
    "words_en.args",
    "mine/not_named.h5",
    "helper.py",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sweep in a project that has a package of its own; `mine.bridges` is what its config names."""
    there = [name for name in COUNTED if "*" not in name and name != "mine/words_en.more"]
    files = dict.fromkeys(there, "") | {"mine/bridges.py": SOURCE, "mine/unused.py": ""}
    for name, text in (files | {"mine/layers.py": "class Layer: ...\n", "data/captions.json": "[]"}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    compiled = Path(importlib.util.find_spec("_json").origin)
    (tmp_path / "mine/compiled.so").unlink()
    (tmp_path / "mine" / f"_json{''.join(compiled.suffixes)}").write_bytes(compiled.read_bytes())
    (tmp_path / "mine/bridges.py").write_text(SOURCE.replace("import compiled", "import _json"))
    monkeypatch.chdir(tmp_path)
    folder = Folder(tmp_path / "sweeps" / "one")
    folder.run(RUN.name).mkdir(parents=True)
    return folder


def run(folder: Folder, more: str = "", began: float = BEGAN) -> dict[str, str]:
    """What a process is seen to read that imports the class."""
    text = f"from lit_blip2.reads import record_if_asked as r; r(); import mine.bridges\n{more}"
    where = os.pathsep.join([str(PACKAGE.parent), os.getcwd()])
    environment = os.environ | {"PYTHONPATH": where} | asked_to_record(RUN, folder)
    subprocess.run([sys.executable, "-c", text], env=environment, check=True)
    return collect(RUN, folder, began)


def test_they_are_the_code_of_others_and_what_it_reads(folder):
    compiled = next(Path("mine").glob("_json*")).as_posix()
    found = run(folder)
    outputs = {name for name, known in found.items() if known == reads.OUTPUT}
    assert outputs == {"mine/log.csv", "mine/cache.json"}
    assert set(found) - outputs == COUNTED - {"mine/compiled.so"} | {compiled}
    assert not list(folder.run(RUN.name).iterdir())


def test_how_a_package_is_installed_is_none_of_them(folder):
    """A library that looks for plugins reads what every installed package says of itself, and tries a finder's name."""
    Path("mine.egg-info").mkdir()
    Path("mine.egg-info/PKG-INFO").write_text("Name: mine\nVersion: 1\n")
    Path("mine.egg-info/entry_points.txt").write_text("[plugins]\nmine = mine\n")
    found = run(
        folder, "import importlib.metadata as m, sys; sys.path += ['mine.finder.__path_hook__']; m.entry_points()"
    )
    assert not [name for name in found if "mine." in name]


@pytest.mark.parametrize("name", sorted(name for name in COUNTED - {"mine/compiled.so"} if "*" not in name))
def test_an_edit_of_any_of_them_is_named(folder, name):
    write(folder.done(RUN.name), done_of(reads=run(folder)))
    for other in ("mine/unused.py", "mine/log.csv", "mine/lists/b.tsv", "data/captions.json", "mine/todo.txt"):
        Path(other).write_text("edited")
    check_unchanged(folder)
    Path(name).write_text("edited")
    with pytest.raises(ChangedError, match=rf"^{name} has changed since .*fit/seed=0 read it"):
        check_unchanged(folder)


def test_a_new_file_in_a_listed_folder_is_named_and_one_that_is_gone(folder):
    write(folder.done(RUN.name), done_of(reads=run(folder)))
    Path("mine/lists/b.txt").write_text("")
    with pytest.raises(ChangedError, match=r"^mine/lists/\*\.txt has changed"):
        check_unchanged(folder)
    Path("mine/lists/b.txt").unlink()
    check_unchanged(folder)
    Path("mine/by_language/fr").mkdir()
    with pytest.raises(ChangedError, match=r"^mine/by_language/\*/ has changed"):
        check_unchanged(folder)
    Path("mine/by_language/fr").rmdir()
    Path("helper.py").unlink()
    with pytest.raises(ChangedError, match=r"^helper\.py has changed"):
        check_unchanged(folder)


def test_an_edit_while_the_step_runs_is_an_error_also_between_two_attempts(folder):
    edit = "import subprocess; subprocess.run(['touch', 'helper.py'])"
    with pytest.raises(ChangedError, match=r"^helper\.py changed while the step ran.* Remove .*fit/seed=0, and start"):
        run(folder, edit)
    with pytest.raises(ChangedError):
        run(folder)  # goes on from what the former version has made


def test_forked_workers_and_processes_of_its_own_are_seen_too(folder):
    Path("late.txt").write_text("")
    Path("later.txt").write_text("")
    more = "import os, subprocess, sys\nif os.fork() == 0:\n    open('late.txt').read(); os._exit(0)\nos.wait()\n"
    child = "from lit_blip2.reads import record_if_asked as r; r(); open('later.txt')"
    more += f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    assert {"late.txt", "later.txt"} <= set(run(folder, more))


def test_of_the_libraries_those_count_that_a_config_names_or_a_module_imports(folder, monkeypatch):
    assert libraries(["a.b", "data/mini", "torch.nn.GELU", "yaml.Loader"], []) == ["yaml"]
    Path("mine/layers.py").write_text("import json, torch\nfrom safetensors.torch import load_file\nclass Layer: ...\n")
    write(folder.done(RUN.name), done_of(reads=run(folder)))
    check_unchanged(folder)
    monkeypatch.setattr(reads, "digest_of_library", lambda name: f"another {name}")
    with pytest.raises(ChangedError, match=r"^safetensors \(installed\) has changed"):
        check_unchanged(folder)


def test_what_a_step_writes_stops_no_other(folder):
    """A file that a fit leaves and its test reads, and one that is moved into its place."""
    more = "import os\nopen('left.json', 'w').close(); open('part', 'w').close(); os.replace('part', 'whole')"
    write(folder.done(RUN.name), done_of(reads=run(folder, more)))
    write(folder.done("vqa/seed=0"), done_of(reads=run(folder, "open('left.json').read(); open('whole').read()")))
    for name in ("left.json", "whole"):
        Path(name).write_text("of the next cell")
    check_unchanged(folder)


def test_what_native_code_writes_is_none_of_its_reads_and_what_it_may_read_is(folder):
    os.utime("mine/not_named.h5", (0, 0))
    found = run(folder, began=time.time() - 3600)
    assert "mine/not_named.h5" in found and "mine/weights/head.safetensors" not in found
    assert found["mine/words_en.txt"] not in ("", reads.OUTPUT)  # it is new, and was read


def test_results_that_cells_gather_in_one_folder_stop_none(folder):
    """Each looks at all of them and adds its own."""
    Path("results").mkdir()
    more = (
        "import glob\n[open(each).read() for each in sorted(glob.glob('results/*.json'))]\nopen('results/{}.json', 'w')"
    )
    Path("results/0.json").write_text("")
    for cell in (1, 2, 3):
        write(folder.done(f"fit/seed={cell}"), done_of(reads=run(folder, more.format(cell))))
    assert "results/1.json" in read(folder.done("fit/seed=2"), Done).reads
    check_unchanged(folder)


def plan_with(files: dict[str, str], looked: float = math.inf) -> Plan:
    what = {"axes": {}, "metrics": [], "cells": [], "steps": {}, "identity": "", "sources": ""}
    return Plan(name="x", files=files, looked=looked, **what)


def test_a_file_that_a_config_names_is_looked_at_before_each_step(folder):
    known = plan_with({"data": fingerprint.of_path("data")})
    reads.check_files(RUN, known, folder)
    Path("data/captions.json").write_text("[1]")
    with pytest.raises(ChangedError, match=r"^data has changed since this sweep began, and the config of fit/seed=0"):
        reads.check_files(RUN, known, folder)
    reads.check_files(RUN, plan_with({}), folder)  # a sweep that is older, or an output


def test_a_new_file_in_a_folder_that_a_config_names_is_an_output(folder):
    """Such as the cache of a class of one's own, which the first cell fills."""
    os.utime("data/captions.json", (0, 0))
    known = plan_with({"data": fingerprint.of_path("data")}, time.time() - 10)
    Path("data/lengths.json").write_text("[]")
    reads.check_files(RUN, known, folder)
    Path("data/captions.json").write_text("[1]")
    with pytest.raises(ChangedError, match=r"^data has changed"):
        reads.check_files(RUN, known, folder)


def test_a_file_that_a_config_names_and_a_step_writes_is_an_output(folder):
    known = plan_with({"data": fingerprint.of_path("data")})
    found = run(folder, "open('data/captions.json', 'w').write('[2]')")
    assert found["data/captions.json"] == reads.OUTPUT
    write(folder.done(RUN.name), done_of(reads=found))
    reads.check_files(RUN, known, folder)


def test_the_folder_that_the_sweep_lies_in_is_not_compared(folder):
    run_here = RUN.model_copy(update={"config": {"data": {"root": "."}}})
    reads.check_files(run_here, plan_with({".": "of another time"}), folder)


def test_a_pattern_of_what_was_written_alone_is_an_output(folder):
    """A joined copy beside the files that it is made of does not hide a new one of them."""
    found = run(folder, "open('mine/lists/joined.cache', 'w').close()")
    assert found["mine/lists/joined.cache"] == reads.OUTPUT and found["mine/lists/*.txt"] != reads.OUTPUT
