"""A FIFO, a device or a socket in the place of a file is refused by name: nobody waits for what never comes."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from lit_blip2 import config
from lit_blip2.ablation import folder, schema
from lit_blip2.checkpoint import read_safely
from lit_blip2.contents import DataError, read_object
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.data.annotations.entries import read_json
from lit_blip2.data.annotations.questions import read_questions
from lit_blip2.data.features.store import FeatureStore, Layout, open_shard
from lit_blip2.data.images import UnreadableImageError, load_image
from lit_blip2.data.shards.indexing import index_shards
from lit_blip2.evaluation.items import read_items
from lit_blip2.links import check_links
from lit_blip2.model.pretrained import read_config, read_tokenizer
from lit_blip2.model.vision import VisionEncoder

LAYOUT = Layout("int8", 0, 0, 1, 1, 1, 1)


def features(file):
    about = {"made_by": {}, "layout": LAYOUT._asdict(), "crc32": {file.name: 0}}
    (file.parent / "features.json").write_text(json.dumps(about))
    (file.parent / "00000.safetensors").touch()
    return FeatureStore(file.parent)


READERS = {
    "a.json": read_captions,
    "a.jsonl": read_captions,
    "a.csv": read_captions,
    "a.tsv": read_captions,
    "questions.json": read_questions,
    "other.json": read_json,
    "experiment.yaml": config.read,
    "plan.json": lambda file: folder.read(file, schema.Plan),
    "done.json": lambda file: folder.read(file, schema.Done),
    "validation.jsonl": folder.read_validations,
    "items.npz": read_items,
    ".test.0.0.jsonl": lambda file: check_links(file.parent),  # as of any file of a run, a sweep or a store
    "features.json": read_object,
    "image_ids.npy": features,
    "00000.safetensors": lambda file: open_shard(file, LAYOUT),
    "config.json": lambda file: read_config(file.parent),
    "tokenizer.json": lambda file: read_tokenizer(file.parent),
    "weights.pth": read_safely,
    "vit.safetensors": lambda file: VisionEncoder("vit_tiny_patch16_224", str(file)).weights_file(),
    "00000.tar": lambda file: index_shards(file.parent, workers=1),
}


@pytest.fixture(autouse=True)
def _a_deadline():
    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)  # the first reader of a tokenizer imports transformers
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("name", "read"), READERS.items(), ids=READERS)
def test_a_fifo_is_refused_by_name(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is no regular file but a FIFO.*: put a file in its place") as error:
        read(tmp_path / name)
    assert str(tmp_path) in str(error.value)


def test_a_fifo_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match=r"a\.png: no regular file") as error:
        load_image(tmp_path / "a.png")
    assert error.value.reason == "no regular file"


def test_a_device_and_a_socket_are_refused_and_a_link_to_a_file_is_read(tmp_path, monkeypatch):
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"zero\.json is no regular file but a device"):
        read_json(tmp_path / "zero.json")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.json")
        with pytest.raises(DataError, match=r"socket\.json is no regular file but a socket"):
            read_json("socket.json")
    (tmp_path / "own.json").write_text("[1]")
    (tmp_path / "link.json").symlink_to("own.json")
    assert read_json(tmp_path / "link.json") == [1]


@pytest.mark.run
def test_the_command_line_refuses_a_fifo_in_one_line(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    command = [sys.executable, "-m", "lit_blip2", "fit", "--config", str(tmp_path / "a.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode and found.stderr.count("\n") == 1 and "is no regular file but a FIFO" in found.stderr
