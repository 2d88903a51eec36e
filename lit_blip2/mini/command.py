"""`python -m lit_blip2 data make-mini|make-models|features`: the mini-world on disk, models for it, their features."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from rich.progress import track

from lit_blip2.data.features import FeatureStore, write_features
from lit_blip2.data.images import load_image
from lit_blip2.data.transforms import eval_transform
from lit_blip2.mini.train_vit import VIT_KWARGS, VIT_NAME
from lit_blip2.mini.write import write_world
from lit_blip2.model.vision import VisionEncoder

WEIGHTS = "lit_blip2/mini/weights/vit.safetensors"
BATCH = 50
Model = Literal["vit", "vit_small", "opt", "opt_small", "opt_instruct", "opt_longer", "bert"]


def make_mini(
    out: Path = Path("data/mini"),
    train: int = 12000,
    val: int = 500,
    test: int = 500,
    seed: int = 0,
    workers: int = 2,
    features: bool = True,
    vision_weights: str = WEIGHTS,
) -> None:
    """Write the mini-world: COCO captions, VQAv2 questions, binding pairs, images, and the frozen encoder's features.

    A complete world of the same settings is left as it is; one of other settings is an error.

    Args:
        out: folder to write.
        train: training images, an even number.
        val: validation images.
        test: test images.
        seed: of scenes, captions and questions.
        workers: processes that draw.
        features: also keep the frozen encoder's output for every image, in OUT/features.
        vision_weights: the frozen encoder's weights.
    """
    write_world(out, train=train, val=val, test=test, seed=seed, workers=workers)
    if features:
        write_mini_features(out, vision_weights)
    print(f"The mini-world is in {out}.")


def keep_features(encoder: Path, root: Path = Path("data/mini"), out: Path | None = None) -> None:
    """Keep another frozen encoder's output for every image of the mini-world; what is there and fits is left.

    A run reads it with `--data.features`, which counts from `--data.root`: ../mini_features_vit_small.

    Args:
        encoder: folder that make-models wrote, such as data/models/vit_small.
        root: the mini-world.
        out: folder to write; null: beside the world, such as data/mini_features_vit_small. Inside it, sweeps that were
            begun without it would take the world for another one.
    """
    figures = encoder / "figures.json"
    if not figures.is_file():
        raise FileNotFoundError(f"{figures} is missing: python -m lit_blip2 data make-models --only {encoder.name}")
    args = json.loads(figures.read_text())["timm_kwargs"]
    out = out or root.with_name(f"{root.name}_features_{encoder.name}")
    write_mini_features(root, str(encoder / "vit.safetensors"), out, args)
    print(f"The features are in {out}.")


def make_models(out: Path = Path("data/models"), only: Model | None = None, seed: int = 0, steps: int | None = None):
    """Train models that some ablations need beside the shipped ones, on one core; figures.json tells how good each is.

    A complete model of the same settings is left as it is; one of other settings is an error.

    Args:
        out: folder to write; a model is a folder in it.
        only: this one; null: all, one after another, which takes about an hour.
        seed: of weights and data.
        steps: of training; null: each model's own.
    """
    from lit_blip2.mini.on_demand import make_model

    torch.set_num_threads(1)  # the same weights whatever the number of cores
    for name in [only] if only else get_args(Model):
        make_model(name, out, seed, steps)


def write_mini_features(
    root: Path, weights: str = WEIGHTS, folder: Path | None = None, kwargs: dict[str, int] = VIT_KWARGS
) -> None:
    """The frozen encoder's output for every image of the world, kept in ROOT/features or another folder. What is there
    and fits stays. kwargs: timm's arguments."""
    model_args = {key: value for key, value in kwargs.items() if key != "num_classes"}
    vision = VisionEncoder(VIT_NAME, weights, model_args=model_args)
    fingerprint = vision.fingerprint() | {"image_size": kwargs["img_size"]}
    folder = folder or root / "features"
    if folder.exists():
        FeatureStore(folder).check(fingerprint)
        return
    images = _images(root)
    if not images:
        raise FileNotFoundError(f"{root} holds no mini-world: python -m lit_blip2 data make-mini --out {root}")
    vision.load()
    ids = np.array([image_id for image_id, _ in images])
    write_features(folder, ids, _features(vision, [file for _, file in images]), len(ids), fingerprint)


def _images(out: Path) -> list[tuple[int, Path]]:
    """(image id, file) of every image in the world's annotation files, each once."""
    found = {}
    for split in ("train", "val", "test"):
        for kind in ("captions", "binding"):
            file = out / "annotations" / f"{kind}_{split}.json"
            if file.exists():
                for image in json.loads(file.read_text())["images"]:
                    found[image["id"]] = out / "images" / split / image["file_name"]
    return sorted(found.items())


@torch.no_grad()
def _features(vision: VisionEncoder, files: list[Path]) -> Iterator[np.ndarray]:
    size = VIT_KWARGS["img_size"]
    for first in track(range(0, len(files), BATCH), description="Frozen features"):
        images = torch.stack([eval_transform(load_image(file), size) for file in files[first : first + BATCH]])
        yield vision(images).half().numpy()
