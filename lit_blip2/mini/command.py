"""`python -m lit_blip2 data ...`: the mini-world on disk, with its frozen features."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from lit_blip2.data.features import FeatureStore, write_features
from lit_blip2.data.transforms import eval_transform, load_image
from lit_blip2.mini.train_vit import VIT_KWARGS, VIT_NAME
from lit_blip2.mini.write import write_world
from lit_blip2.model.vision import VisionEncoder

WEIGHTS = "lit_blip2/mini/weights/vit.safetensors"
BATCH = 50


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


def write_mini_features(out: Path, weights: str = WEIGHTS) -> None:
    """The frozen encoder's output for every image of the world, kept in OUT/features. What is there and fits stays."""
    model_args = {key: value for key, value in VIT_KWARGS.items() if key != "num_classes"}
    vision = VisionEncoder(VIT_NAME, weights, model_args=model_args)
    fingerprint = vision.fingerprint() | {"image_size": VIT_KWARGS["img_size"]}
    folder = out / "features"
    if folder.exists():
        FeatureStore(folder).check(fingerprint)
        return
    vision.load()
    images = _images(out)
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


def main(arguments: list[str]) -> None:
    """Parse and run."""
    from jsonargparse import auto_cli

    auto_cli({"make-mini": make_mini}, args=arguments)
