"""`data make-mini` and `data make-models`: write the mini-world with cached features, and train small models for it."""

from pathlib import Path
from typing import Literal, get_args

import torch

from lit_blip2.data.coco import COCO
from lit_blip2.data.features.writer import cache_features
from lit_blip2.mini.extras import Kind
from lit_blip2.mini.pope import write_pope
from lit_blip2.mini.restyle import write_styles
from lit_blip2.mini.train.vit import VIT_KWARGS, VIT_NAME
from lit_blip2.mini.write import write_world
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.terminal import say

WEIGHTS = "lit_blip2/mini/weights/vit.safetensors"
Model = Literal["vit", "vit_small", "opt", "opt_small", "opt_instruct", "opt_longer", "bert", "prompter"]


def make_mini(
    out: Path = Path("data/mini"),
    train: int = 12000,
    val: int = 500,
    test: int = 500,
    seed: int = 0,
    workers: int = 2,
    styles: list[str] | None = None,
    extra: Kind | None = None,
    features: bool = True,
    vision_weights: str = WEIGHTS,
) -> None:
    """Write the mini-world: drawn images with captions, questions, binding pairs and cached features.

    Captions have COCO's format, questions VQAv2's and POPE's.
    If `out` holds the complete mini-world of the same settings, nothing is done; other settings are an error.

    Args:
        out: folder to write.
        train: number of training images, even.
        val: number of validation images.
        test: number of test images.
        seed: seed of the scenes, captions and questions.
        workers: number of processes that draw images and encode them.
        styles: also write the captions in these styles, to captions_train_STYLE.json and so on: boilerplate,
            some_boilerplate, much_boilerplate, no_articles, noun_first, names; null: none.
        extra: detail: most scenes get a mark two pixels wide; reading: each scene gets a digit; null: neither. Captions
            mention the mark or digit, and questions ask for it. Then there are no POPE questions and no styles.
        features: whether to cache the frozen image encoder's output for every image, in OUT/features.
        vision_weights: weights file of that encoder.
    """
    if extra and styles:
        raise ValueError(f"extra={extra}: no style of captions has words for it, make a world of each")
    write_world(out, train=train, val=val, test=test, seed=seed, workers=workers, extra=extra)
    write_styles(out, styles or [])
    if extra is None:
        write_pope(out)
    if features:
        cache_mini_features(out, vision_weights, workers)
    say(f"The mini-world is in {out}.")


def make_models(out: Path = Path("data/models"), only: Model | None = None, seed: int = 0, steps: int | None = None):
    """Train the small models that some ablations need beside the shipped ones, on one core.

    A model's figures.json says how well it does. If `out` holds the complete model of the same settings, nothing is
    done; other settings are an error.

    Args:
        out: folder to write; each model gets a folder in it.
        only: train this model alone; null: all models, one after another, which takes about an hour.
        seed: seed of the weights and of the data.
        steps: number of training steps; null: each model's own number.
    """
    from lit_blip2.mini.train.on_demand import make_model

    torch.set_num_threads(1)  # the same weights whatever the number of cores
    for name in [only] if only else get_args(Model):
        make_model(name, out, seed, steps)


def cache_mini_features(root: Path, weights: str, processes: int) -> None:
    """Cache the frozen image encoder's output for every image of the mini-world, in ROOT/features."""
    model_args = {key: value for key, value in VIT_KWARGS.items() if key != "num_classes"}
    files = {split: f"annotations/captions_{split}.json" for split in ("train", "val", "test")}
    swapped = {f"binding_{split}": f"annotations/binding_{split}.json" for split in ("val", "test")}
    data = COCO(root=str(root), **files, **swapped, image_size=VIT_KWARGS["img_size"], augment=False)
    cache_features(
        data, VisionEncoder(VIT_NAME, weights, model_args=model_args), root / "features", processes=processes
    )
