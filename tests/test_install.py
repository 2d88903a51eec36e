"""What is installed: pyproject.toml lists what the package imports, requirements.txt the same with what tests need, and
docs/install.md says how."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lit_blip2.__main__ import main

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
IN_REQUIREMENTS = ("postgresql", "slurm", "dev")
# Modules whose distribution has another name, also where it is not installed here.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "markdown_it": "markdown-it-py"}
USED_BY_NAME = {"psycopg2-binary", "s3fs", "gcsfs", "torchmetrics"}  # SQLAlchemy, fsspec and Lightning import them
PAGE = Path("docs/install.md").read_text()


def imported(folders: Iterable[str]) -> set[str]:
    """Distributions that the files of some folders import, within functions too."""
    names = set()
    for folder in folders:
        for file in Path(folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    ours = {"lit_blip2", "tests", "benchmarks"}
    return {normal(DISTRIBUTIONS.get(name, name)) for name in names - ours - sys.stdlib_module_names}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(lines: Iterable[str]) -> set[str]:
    return {normal(Requirement(line).name) for line in lines}


def test_dependencies_are_what_the_package_imports():
    used, needed = imported(["lit_blip2"]), named(PROJECT["dependencies"])
    optional = {name for extra, lines in EXTRAS.items() if extra != "dev" for name in named(lines)}
    assert used - optional <= needed
    assert needed | optional <= used | USED_BY_NAME


def test_tests_and_benchmarks_import_what_dev_installs():
    installed = named(PROJECT["dependencies"] + [line for lines in EXTRAS.values() for line in lines])
    assert imported(["tests", "benchmarks"]) - installed <= {"packaging"}  # pytest needs it itself


def test_requirements_have_the_bounds_of_pyproject():
    lines = [line for line in Path("requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == PROJECT["dependencies"] + [line for extra in IN_REQUIREMENTS for line in EXTRAS[extra]]


def test_bounds_admit_what_is_installed_here():
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    assert not [str(each) for each in wanted if importlib.metadata.version(each.name) not in each.specifier]


def test_the_page_names_every_extra():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == EXTRAS.keys()
    assert {extra for given in re.findall(r"\[([\w,]+)\]", PAGE) for extra in given.split(",")} <= EXTRAS.keys()


def test_the_console_command_is_the_module():
    point = importlib.metadata.EntryPoint("lit-blip2", PROJECT["scripts"]["lit-blip2"], "console_scripts")
    assert point.load() is main


@pytest.mark.slow
def test_the_package_installs_with_its_command(tmp_path):
    """`pip install -e .` as the page has it, without a network: dependencies are those of this Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    where = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    site = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    Path(site, "here.pth").write_text(sysconfig.get_path("purelib"))
    copied = tmp_path / "checkout"
    tracked = subprocess.run(["git", "ls-files", "lit_blip2/*.py"], check=True, capture_output=True, text=True).stdout
    for name in ["pyproject.toml", "README.md", "LICENSE", *tracked.split()]:
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).write_bytes(Path(name).read_bytes())
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", copied]
    subprocess.run(install, check=True)
    for command in ([tmp_path / "venv/bin/lit-blip2"], [python, "-m", "lit_blip2"]):
        told = subprocess.run([*command, "--help"], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
        assert told.startswith("usage: python -m lit_blip2 COMMAND")
