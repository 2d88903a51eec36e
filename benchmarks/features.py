"""Cached features against the live encoder: their size on disk, their error, and how much faster a step is.

    python benchmarks/features.py --stage1 runs/mini_stage1 --stage2 runs/mini_opt

Needs the mini-world in data/mini and two trained runs (`make demo`). Three parts:

    written    for float16, bfloat16 and int8: bytes per image, images per second of one process
    accuracy   the norm of the error over that of the features, and the test metrics of both runs on cached features
               beside those on live ones
    step       a stage-1 step of the mini-world from images and from cached features, in turn (times faster). At ViT-g
               size the same from parts: a block's forward on a few images times 39, the true-size step of
               stage1_step.py, and reading cached features of that size.

The last line is JSON. Times need idle cores.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jsonargparse import ArgumentParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from benchmarks import stage1_step
from benchmarks.measure import interleave, ratio
from lit_blip2.commands.features import read_vision
from lit_blip2.config import read
from lit_blip2.data.batches.evaluation import Pixels
from lit_blip2.data.batches.loaders import train_loader
from lit_blip2.data.batches.pairs import CachedPairs, FilePairs, name_keys
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.coco import COCO
from lit_blip2.data.features import writer as keeping
from lit_blip2.data.features.store import CachedDtype, FeatureStore
from lit_blip2.lit import LitStage1
from lit_blip2.model.timm_network import build
from lit_blip2.model.vision import VisionEncoder

STAGE1 = ("retrieval/itc_txt_r1", "retrieval/itc_img_r1", "retrieval/itm_txt_r1", "binding/itm_accuracy")
STAGE2 = ("vqa/mean_over_types", "caption/cider")
EXPERIMENT = Path("experiments/mini_stage1.yaml")
VIT_G, BLOCKS = "eva_giant_patch14_clip_224", 39


def test_images(root: Path) -> COCO:
    """The test images of the mini-world, as a source to train on too."""
    captions, binding = "annotations/captions_test.json", "annotations/binding_test.json"
    files = {"train": captions, "test": captions, "binding_test": binding}
    return COCO(str(root), images="images/test", **files, image_size=64, augment=False)


def written(vision: VisionEncoder, root: Path, out: Path) -> dict[str, dict[str, float]]:
    """dtype -> what its folder OUT/dtype cost."""
    figures = {}
    for dtype in get_args(CachedDtype):
        began = time.perf_counter()
        keeping.cache_features(test_images(root), vision, out / dtype, dtype, processes=1)
        seconds = time.perf_counter() - began
        stores = [FeatureStore(out / dtype / section) for section in ("train", "test")]
        images = sum(map(len, stores))
        size = sum(file.stat().st_size for file in (out / dtype).rglob("*.safetensors"))
        figures[dtype] = {"bytes_per_image": round(size / images), "images_per_second": round(images / seconds, 1)}
    return figures


def errors(vision: VisionEncoder, root: Path, out: Path) -> dict[str, float]:
    """dtype -> norm of the difference from the live features over theirs."""
    data = test_images(root)
    files = data.evaluation_images("test")
    live = torch.cat([vision(data.pixels("test").load([file], np.array([0]))) for file in list(files.values())[:100]])
    kept = {
        dtype: FeatureStore(out / dtype / "test").rows(list(files)[:100]).float() for dtype in get_args(CachedDtype)
    }
    return {dtype: ((each - live).norm() / live.norm()).item() for dtype, each in kept.items()}


def tested(run: Path, root: Path, features: str, names: tuple[str, ...]) -> dict[str, float]:
    """Test metrics of a run of the experiment of its name, on kept or live ("null") features; its folder stays."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.name / "version_0"
        shutil.copytree(run / "version_0", copy)
        (copy / "metrics.json").unlink(missing_ok=True)
        arguments = ["test", "--config", f"experiments/{run.name}.yaml", "--ckpt_path", str(copy)]
        arguments += [
            f"--data.root={root.resolve()}",
            f"--data.features={features}",
            "--trainer.enable_progress_bar=false",
        ]
        subprocess.run([sys.executable, "-m", "lit_blip2", *arguments], check=True, capture_output=True)
        figures = json.loads((copy / "metrics.json").read_text())
    return {name: round(figures[name], 4) for name in names}


def mini_step(root: Path, out: Path, turns: int, steps: int = 5) -> tuple[float, float, float]:
    """How many times faster a step of stage 1 is from cached features than from images: median, least, most."""
    parser = ArgumentParser()
    parser.add_argument("--model", type=LitStage1)
    model = parser.instantiate(parser.parse_object({"model": read(EXPERIMENT).settings["model"]})).model
    model.net.load(vision=True)
    optimizer = torch.optim.AdamW(model.net.parameters(), lr=0.0, fused=True)
    images = test_images(root).train_pairs()
    pairs = FilePairs("coco", images.texts, Pixels(root / "images/test", 64), augment=False, group=2)

    def side(source: FilePairs | CachedPairs) -> Callable[[], None]:
        def run() -> None:
            for batch in train_loader(TrainPairs(source, 0), 48, 0, steps):
                model.on_before_batch_transfer(batch, 0)
                optimizer.zero_grad()
                model.losses(batch)["total"].backward()
                optimizer.step()

        return run

    store = FeatureStore(out / "float16" / "train")
    seconds = interleave({"live": side(pairs), "kept": side(CachedPairs(pairs, store))}, turns)
    return ratio(seconds["live"], seconds["kept"])


def true_size(out: Path, turns: int, images: int = 4) -> dict[str, float]:
    """Seconds per image of the parts of a step with ViT-g, fp32, on this machine's cores."""
    with torch.device("meta"):
        block = build(VIT_G, {}, 1).blocks[0]
    block = block.to_empty(device="cpu").requires_grad_(False)
    for parameter in [*block.parameters(), *block.buffers()]:
        parameter.data.normal_(std=0.02)
    tokens_BNW = torch.randn(images, 257, 1408)
    size = stage1_step.Size()
    net, batch = stage1_step.build(size), stage1_step.make_batch(size, "coco")
    kept = keeping.pack(torch.randn(size.batch, 1, 257, 1408), "bfloat16")
    folder = out / "giant"
    folder.mkdir()
    layout = keeping.Layout("bfloat16", 0, 0, size.batch, 257, 1408, size.batch)
    (folder / "features.json").write_text(json.dumps({"made_by": {}, "layout": layout._asdict()}))
    np.save(folder / "image_ids.npy", np.arange(size.batch))
    np.save(folder / "keys.npy", name_keys(str(number) for number in range(size.batch)))
    keeping.save_file(kept, folder / keeping.shard_name(0), metadata={"unreadable": "{}"})
    store = FeatureStore(folder)
    sides = {
        "block": lambda: block(tokens_BNW),
        "step": stage1_step.make_step(net, net, batch, fused=True),
        "read": lambda: store.rows(range(size.batch)),
    }
    seconds = {name: statistics.median(each) for name, each in interleave(sides, turns).items()}
    vit, step, read = seconds["block"] / images * BLOCKS, seconds["step"] / size.batch, seconds["read"] / size.batch
    return {"vit": vit, "step": step, "read": read, "times_faster": (vit + step) / (read + step)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage1", type=Path, help="run to test on cached features; none: that part is left out")
    parser.add_argument("--stage2", type=Path, help="the same")
    parser.add_argument("--root", type=Path, default=Path("data/mini"), help="the mini-world")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--skip-true-size", action="store_true")
    args = parser.parse_args()
    vision = read_vision([EXPERIMENT])
    vision.load()
    figures: dict = {}
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        figures["written"] = written(vision, args.root, out)
        figures["errors"] = {dtype: round(error, 5) for dtype, error in errors(vision, args.root, out).items()}
        for run, names in ((args.stage1, STAGE1), (args.stage2, STAGE2)):
            for features in ("null", *(str(out / dtype) for dtype in get_args(CachedDtype))) if run else ():
                found = tested(run, args.root, features, names)
                print(Path(features).name.replace("null", "live"), found, flush=True)
                figures.setdefault("tested", {}).setdefault(run.name, {})[Path(features).name] = found
        figures["step_times_faster"] = [round(each, 3) for each in mini_step(args.root, out, args.turns)]
        if not args.skip_true_size:
            figures["true_size"] = {name: round(each, 4) for name, each in true_size(out, args.turns).items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
