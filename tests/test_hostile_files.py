"""Files that were made to harm: the documented error, with the file's name, within a second."""

import json
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from lit_blip2 import cli, config, contents
from lit_blip2.ablation.folder import SweepError
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.contents import DataError, name_inside
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.evaluation import items
from lit_blip2.runs import is_whole
from lit_blip2.terminal import printable
from tests.ablation.conftest import SweepFolder

MILLION = 1_000_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n" for before, after in zip("abcdefgh", "bcdefghi")
)
YAMLS = {
    "aliases that multiply": LAUGHS,
    "aliases that multiply in keys": LAUGHS.replace("[", "{").replace("]", "}").replace("x,", "x: 1,"),
    "an alias in itself": "a: &a [*a]",
    "lists in lists": "a: " + "[" * MILLION,
    "mappings in mappings": "a: " + "{a: " * MILLION,
    "blocks in blocks": "- " * MILLION,
    "no date": "a: 2001-99-99",
    "no number": "a: !!int x",
    "a class": "a: !!python/object/apply:os.system ['true']",
    "a number in sixties": "a: " + "1:" * 100_000 + "1",
    "a number that takes long": "a: " + "9" * 5000,
}
EXPERIMENT = "model: {class_path: lit_blip2.lit.LitStage1}\n"
CONFIGS = {  # what stands in a file of --config, and what is said of it
    "nothing": (b"", "holds no settings"),
    "a list": (b"- a\n", "holds no settings"),
    "a text": (b"hello", "holds no settings"),
    "NUL": (EXPERIMENT.encode() + b"\0", "is not YAML: unacceptable character #x0000"),
    "a program": (b"\x7fELF" + bytes(range(256)) * 20, "cannot be read: 'utf-8' codec"),
    "Latin-1": (EXPERIMENT.encode() + "# é".encode("latin-1"), "cannot be read: 'utf-8' codec"),
    "half a surrogate pair": (b'seed_everything: "\\ud800"', "invalid Unicode character escape code"),
    "a JSON that is deep": (b'{"model":' * MILLION, "is not YAML: its values are nested too deep"),
    "a key that is no text": (b"3: 1", "Key must be a string, got: 3."),
    "a text of aliases": (
        f"model: |\n{LAUGHS[: LAUGHS.index('g: ')]}".replace("\n", "\n  ").encode(),
        "is no class: give its whole name",
    ),
    "a long text": (b"seed_everything: " + b"a" * MILLION, "expected bool or int, got aaa"),
    "a control character": (b'seed_everything: "\\e[2J"', r"got \x1b[2J"),
}


@contextmanager
def within_seconds():
    """Of the processor: what multiplies takes hours, and a busy machine makes all take longer."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 10


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
@pytest.mark.parametrize("read", [config.read, read_grid])
def test_a_hostile_yaml_is_refused(tmp_path, text, read):
    (tmp_path / "bomb.yaml").write_text(text)
    with within_seconds(), pytest.raises(DataError, match=r"bomb\.yaml is not YAML: .+"):
        read(tmp_path / "bomb.yaml")


@pytest.mark.parametrize(("content", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_hostile_experiment_is_refused_in_one_line(tmp_path, content, words, capsys):
    """By the parser of fit, in which YAML stands within YAML."""
    (tmp_path / "a.yaml").write_bytes(content)
    with within_seconds(), pytest.raises(SystemExit):
        cli.main(["fit", "--config", str(tmp_path / "a.yaml"), "--print_config"])
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/a.yaml") and words in said
    assert said.count("\n") == 1 and len(said) < 2500 and printable(said) == said


def test_a_folder_and_a_file_that_is_not_there_are_no_experiment(tmp_path, capsys):
    for file, words in ((tmp_path, "is a folder: give the path of a file"), (tmp_path / "none.yaml", "no file ")):
        with pytest.raises(SystemExit):
            cli.main(["fit", "--config", str(file)])
        said = capsys.readouterr().err
        assert words in said and file.name in said and said.count("\n") == 1


@pytest.mark.parametrize("value", ["{a: &a [1], b: " + "[" * MILLION, "9" * 5000, "&a [*a]", "!!python/name:os.system"])
def test_a_hostile_value_of_set_is_refused(value):
    with within_seconds(), pytest.raises(ValueError, match=r"^--set stage1\.a=.* is no plain value of YAML") as error:
        read_grid("ablations/objectives.yaml", settings=[f"stage1.a={value}"])
    assert len(str(error.value)) < 500


def test_aliases_that_do_not_multiply_are_read(monkeypatch):
    assert config.from_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "x").settings["d"] == {"b": 1, "e": 2}
    monkeypatch.setattr(contents, "MOST_FROM_ALIASES", 10)
    many = "\n".join(f"k{number}: [1, 2, 3]" for number in range(100))  # large, and without an alias
    assert len(config.from_text(many, "x").settings) == 100


@pytest.mark.parametrize("text", [b"[" * MILLION, b'{"a":' * MILLION, b'{"images":' + b"[" * MILLION], ids=len)
def test_a_hostile_json_is_refused(tmp_path, text):
    (tmp_path / "deep.json").write_bytes(text)
    with within_seconds(), pytest.raises(DataError, match=r"deep\.json is not JSON"):
        read_captions(tmp_path / "deep.json")


@pytest.mark.parametrize(("name", "words"), [("a\0b.jpg", "must name a file"), ("ü" * 200, "than the 255 bytes")])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name, words):
    (tmp_path / "a.json").write_text(json.dumps([{"image": name, "caption": "x", "image_id": 1}]))
    with pytest.raises(DataError, match=rf"a\.json: entry 1: image is .* {words}|{words}"):
        read_captions(tmp_path / "a.json")


OUTSIDE = ["../a", "/etc/passwd", "a/../../b", "..", "", "a\0b", "a\x1b[2J"]


@pytest.mark.parametrize("name", [*OUTSIDE, "a/b", "a" * 256, None, 3])
def test_a_name_in_an_index_stays_in_its_folder(name):
    with pytest.raises(DataError, match=r"index\.json names .*: shards lie beside it"):
        name_inside(name, "index.json", "shards lie beside it")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_sweep_names_nothing_outside_its_folder(tmp_path, name):
    def write(run: str, key: str) -> SweepFolder:
        sweep = SweepFolder(tmp_path / "sweep")
        sweep.plan |= {"axes": {"itc": ["on"]}, "seeds": [0], "metrics": ["loss/itc"]}
        sweep.step("stage1/a")
        sweep.plan["steps"][key] = sweep.plan["steps"].pop("stage1/a") | {"name": run}
        sweep.cell({"itc": "on"}, 0, [run], {"loss/itc": run})
        return sweep

    for run, key in ((name, name), ("stage1/a", name), (name, "stage1/a")):
        write(run, key).write()
        with pytest.raises(SweepError, match=r"plan\.json: .*leads out of the sweep's folder"):
            read_sweep(tmp_path / "sweep")


def test_items_that_unpack_to_more_than_a_test_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MOST_BYTES", 1 << 20)
    file = tmp_path / "items.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("a:values.npy", "w") as part:
        np.lib.format.write_array_header_1_0(part, {"descr": "<f8", "fortran_order": False, "shape": (1 << 20,)})
        part.write(bytes(8 << 20))
    with within_seconds(), pytest.raises(DataError, match=r"items\.npz unpacks to 8,388,.* bytes, more than"):
        items.read_items(file)
    with within_seconds():
        assert not is_whole(file)  # as a checkpoint, whose parts are never packed


@pytest.mark.run
def test_the_command_line_refuses_a_hostile_experiment_in_one_line(tmp_path):
    (tmp_path / "bomb.yaml").write_text(LAUGHS)
    command = [sys.executable, "-m", "lit_blip2", "fit", "--config", str(tmp_path / "bomb.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode and found.stderr.count("\n") == 1 and "its aliases stand for more" in found.stderr
