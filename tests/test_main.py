"""The dispatcher, the direction of imports, and the light commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path("lit_blip2")
LAYERS = ["model", "objectives", "lit", "cli", "__main__"]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lit_blip2", *arguments], capture_output=True, text=True)


def imported(file: Path) -> set[str]:
    """Dotted names a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module}
    return names


def files(*rooms: str) -> list[Path]:
    return [
        file for room in rooms for file in ([PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists()
        else (PACKAGE / room).rglob("*.py"))
    ]  # fmt: skip


def uses(file: Path, *rooms: str) -> set[str]:
    return {name for name in imported(file) for room in rooms if (name + ".").startswith(f"lit_blip2.{room}.")}


@pytest.mark.parametrize("position", range(len(LAYERS)))
def test_imports_point_one_way(position):
    later = [room for room in LAYERS[position + 1 :]]
    for file in files(LAYERS[position]):
        assert not uses(file, *later), file


def test_the_ground_floor_imports_nothing_of_the_house():
    for file in files("masks", "distributed", "keyed", "paths"):
        assert not {name for name in imported(file) if name.startswith("lit_blip2")}, file


def test_data_and_evaluation_know_nothing_of_models():
    for file in files("data", "evaluation"):
        assert not uses(file, "model", "objectives", "lit", "mini", "cli"), file


def test_the_mini_world_knows_model_and_data_alone():
    for file in files("mini"):
        assert not uses(file, "objectives", "lit", "cli", "ablation"), file


def test_ablations_know_the_command_line_alone():
    for file in files("ablation"):
        assert not uses(file, "model", "objectives", "data", "lit", "mini", "cli"), file


def test_lightning_stays_in_its_rooms():
    allowed = {PACKAGE / "cli.py", PACKAGE / "data" / "module.py", *files("lit")}
    for file in set(PACKAGE.rglob("*.py")) - allowed:
        assert not {name for name in imported(file) if name.split(".")[0] == "lightning"}, file


@pytest.mark.parametrize("arguments", [("--help",), ("params", "--config", "experiments/vitg_opt27.yaml")])
def test_light_commands_import_no_lightning(arguments):
    code = (
        "import sys, runpy; sys.argv = ['lit_blip2', *sys.argv[1:]]\n"
        "try: runpy.run_module('lit_blip2', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'lightning', 'timm', 'transformers', 'torchvision', 'torch._dynamo'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_params_prints_the_table():
    out = run("params", "--config", "experiments/vitg_opt27.yaml").stdout
    assert "107,133,696" in out and "2,651,596,800" in out


def test_params_of_a_missing_file_says_so():
    result = run("params", "--config", "nowhere.yaml")
    assert result.returncode == 2 and "nowhere.yaml" in result.stderr and "Traceback" not in result.stderr


def test_help_names_every_command():
    out = run("--help").stdout
    for command in ("fit", "validate", "test", "predict", "params", "data", "ask", "caption", "report"):
        assert f"  {command} " in out


def test_an_unknown_command_is_named():
    result = run("fitt")
    assert result.returncode == 2 and "unknown command 'fitt'" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("just words", "no model.init_args.net"),
        ("model: [1]", "no model.init_args.net"),
        ("model: {init_args: null}", "no model.init_args.net"),
        ("", "no model.init_args.net"),
        ("a: [1", "while parsing"),
    ],
)
def test_params_of_a_file_that_is_no_experiment_says_so(tmp_path, content, message):
    file = tmp_path / "other.yaml"
    file.write_text(content)
    result = run("params", "--config", str(file))
    assert result.returncode == 2 and f"other.yaml: {message}" in result.stderr
