"""Commands that are killed while they write: run again, they end in what an undisturbed run writes."""

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from lit_blip2.commands.data import main

pytestmark = pytest.mark.run
IMAGES = 8  # and as many shards, of one sample each


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_blip2.data.features.writer.MOST_IN_SHARD", 1)
        yield


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """An experiment on small images, with a tiny encoder."""
    import timm

    root = tmp_path_factory.mktemp("killed")
    for number in range(IMAGES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / f"{number}.png")
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


def killed_at_the_fourth_shard(ending: str, given: list[str]) -> None:
    """Run the command here; SIGKILL ends this process and its workers when a shard is written and not yet named."""
    os.setsid()
    rename, named = Path.rename, []

    def rename_three(part: Path, to: Path) -> None:
        if to.name.endswith(ending):
            named.append(to)
        if len(named) == 4:
            os.killpg(0, signal.SIGKILL)
        rename(part, to)

    Path.rename = rename_three
    main(given)


@pytest.mark.parametrize("command, made", [("pack", "*.tar"), ("features", "train/*.safetensors")])
def test_a_killed_command_is_gone_on_with(experiment, tmp_path, command, made):
    given, out = arguments(command, experiment, tmp_path / "killed"), tmp_path / "killed"
    process = get_context("fork").Process(target=killed_at_the_fourth_shard, args=(Path(made).suffix, given))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = {file: file.stat().st_mtime_ns for file in out.glob(made)}
    assert len(done) == 3 and len(list((out / made).parent.glob(".*.part*"))) == 1
    assert main(given) == 0
    assert main(arguments(command, experiment, tmp_path / "whole")) == 0
    assert all(file.stat().st_mtime_ns == then for file, then in done.items())
    assert contents(out) == contents(tmp_path / "whole")
