"""Files that were made to harm: the documented error, with the file's name, within a second."""

import json
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from lit_blip2 import config, contents
from lit_blip2.ablation.folder import SweepError
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.contents import DataError, name_inside
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.evaluation import items
from lit_blip2.runs import is_whole
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
}


@contextmanager
def within_a_second():
    began = time.process_time()
    yield
    assert time.process_time() - began < 1


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
@pytest.mark.parametrize("read", [config.read, read_grid])
def test_a_hostile_yaml_is_refused(tmp_path, text, read):
    (tmp_path / "bomb.yaml").write_text(text)
    with within_a_second(), pytest.raises(DataError, match=r"bomb\.yaml is not YAML: .+"):
        read(tmp_path / "bomb.yaml")


def test_aliases_that_do_not_multiply_are_read(monkeypatch):
    assert config.from_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "x").settings["d"] == {"b": 1, "e": 2}
    monkeypatch.setattr(contents, "MOST_FROM_ALIASES", 10)
    many = "\n".join(f"k{number}: [1, 2, 3]" for number in range(100))  # large, and without an alias
    assert len(config.from_text(many, "x").settings) == 100


@pytest.mark.parametrize("text", [b"[" * MILLION, b'{"a":' * MILLION, b'{"images":' + b"[" * MILLION], ids=len)
def test_a_hostile_json_is_refused(tmp_path, text):
    (tmp_path / "deep.json").write_bytes(text)
    with within_a_second(), pytest.raises(DataError, match=r"deep\.json is not JSON"):
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
    with within_a_second(), pytest.raises(DataError, match=r"items\.npz unpacks to 8,388,.* bytes, more than"):
        items.read_items(file)
    with within_a_second():
        assert not is_whole(file)  # as a checkpoint, whose parts are never packed


@pytest.mark.run
def test_the_command_line_refuses_a_hostile_experiment_in_one_line(tmp_path):
    (tmp_path / "bomb.yaml").write_text(LAUGHS)
    command = [sys.executable, "-m", "lit_blip2", "fit", "--config", str(tmp_path / "bomb.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode and found.stderr.count("\n") == 1 and "its aliases stand for more" in found.stderr
