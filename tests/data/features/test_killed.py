"""Commands that are killed while they write: run again, they end in what an undisturbed run writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from lit_blip2.commands.data import main

pytestmark = pytest.mark.slow
IMAGES = 400
# Shards of one sample, so that there is time to kill between two of them.
SMALL_SHARDS = (
    "import sys; from lit_blip2.data.features import writer; from lit_blip2.commands.data import main;"
    " writer.MOST_IN_SHARD = 1; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """An experiment on many small images, with a tiny encoder."""
    import timm

    root = tmp_path_factory.mktemp("killed")
    for number in range(IMAGES):
        Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(root / f"{number}.png")
    (root / "x.csv").write_text("image,caption\n" + "".join(f"{n}.png,Number {n}\n" for n in range(IMAGES)))
    args = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
    name, file = "vit_tiny_patch16_224", root / "vit.safetensors"
    save_file(timm.create_model(name, num_classes=0, **args).state_dict(), file)
    net = {"vision": {"name": name, "weights": str(file), "model_args": args}}
    source = {"root": str(root), "images": ".", "train": "x.csv", "image_size": 8}
    content = {
        "model": {"init_args": {"net": net}},
        "data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": source},
    }
    (root / "experiment.yaml").write_text(json.dumps(content))
    return root / "experiment.yaml"


def arguments(command: str, experiment: Path, out: Path) -> list[str]:
    how = {"pack": ["--samples=1", "--workers=1"], "features": ["--processes=1", "--threads=1", "--batch=1"]}
    return [command, "--config", str(experiment), "--out", str(out), *how[command]]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is no lock, by its name under the folder."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("command, made", [("pack", "*.tar"), ("features", "train/*.safetensors")])
def test_a_killed_command_is_gone_on_with(experiment, tmp_path, monkeypatch, command, made):
    given = arguments(command, experiment, tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-c", SMALL_SHARDS, *given], start_new_session=True)
    while process.poll() is None and len(list((tmp_path / "killed").glob(made))) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").glob(made)}
    assert 3 <= len(done) < IMAGES
    monkeypatch.setattr("lit_blip2.data.features.writer.MOST_IN_SHARD", 1)
    assert main(given) == 0
    assert main(arguments(command, experiment, tmp_path / "whole")) == 0
    assert all(file.stat().st_mtime_ns == then for file, then in done.items())
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
