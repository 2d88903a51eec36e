"""The dispatcher and the light commands."""

import subprocess
import sys

import pytest

from lit_blip2.__main__ import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; gives its exit status, output and errors."""

    def call(*arguments: str) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["lit_blip2", *arguments])
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return call


@pytest.mark.run
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


def test_params_prints_the_table(run):
    out = run("params", "--config", "experiments/vitg_opt27.yaml").stdout
    assert "107,133,696" in out and "2,651,596,800" in out


def test_params_of_a_missing_file_says_so(run):
    result = run("params", "--config", "nowhere.yaml")
    assert result.returncode == 2 and "nowhere.yaml" in result.stderr and "Traceback" not in result.stderr


def test_help_names_every_command(run):
    out = run("--help").stdout
    for command in ("fit", "validate", "test", "predict", "params", "data", "ask", "caption", "report"):
        assert f"  {command} " in out


def test_an_unknown_command_is_named(run):
    result = run("fitt")
    assert result.returncode == 2 and result.stderr == "error: unknown command 'fitt', did you mean 'fit'\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("just words", " holds no settings"),
        ("model: [1]", ": no model.init_args.net"),
        ("model: {init_args: null}", ": no model.init_args.net"),
        ("", " holds no settings"),
        ("model: {init_args: {net: {}}}", ": no model.class_path"),
        ("a: [1", " is not YAML: while parsing"),
    ],
)
def test_params_of_a_file_that_is_no_experiment_says_so(run, tmp_path, content, message):
    file = tmp_path / "other.yaml"
    file.write_text(content)
    result = run("params", "--config", str(file))
    assert result.returncode == 2 and f"other.yaml{message}" in result.stderr
