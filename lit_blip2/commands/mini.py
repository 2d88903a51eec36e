"""`python -m lit_blip2 data make-mini|make-models`: the mini-world on disk with cached features, models for it."""

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
    """Write the mini-world: captions as COCO's, questions as VQAv2's and POPE's, binding pairs, images, and the frozen
    encoder's features.

    A complete world of the same settings is left as it is; one of other settings is an error.

    Args:
        out: folder to write.
        train: training images, an even number.
        val: validation images.
        test: test images.
        seed: of scenes, captions and questions.
        workers: processes that draw, and that see.
        styles: also write the captions in these styles, as captions_train_STYLE.json and so on: boilerplate,
            some_boilerplate, much_boilerplate, no_articles, noun_first, names.
        extra: detail: a mark two pixels wide in most scenes; reading: a digit in each. Captions tell it, and a question
            of this type asks for it. POPE's questions are left out, and the captions have no other styles.
        features: also cache the frozen encoder's output for every image, in OUT/features.
        vision_weights: the frozen encoder's weights.
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
    """Train models that some ablations need beside the shipped ones, on one core; figures.json tells how good each is.

    A complete model of the same settings is left as it is; one of other settings is an error.

    Args:
        out: folder to write; a model is a folder in it.
        only: this one; null: all, one after another, which takes about an hour.
        seed: of weights and data.
        steps: of training; null: each model's own.
    """
    from lit_blip2.mini.train.on_demand import make_model

    torch.set_num_threads(1)  # the same weights whatever the number of cores
    for name in [only] if only else get_args(Model):
        make_model(name, out, seed, steps)


def cache_mini_features(root: Path, weights: str, processes: int) -> None:
    """The frozen encoder's output for every image of the world, in ROOT/features."""
    model_args = {key: value for key, value in VIT_KWARGS.items() if key != "num_classes"}
    files = {split: f"annotations/captions_{split}.json" for split in ("train", "val", "test")}
    swapped = {f"binding_{split}": f"annotations/binding_{split}.json" for split in ("val", "test")}
    data = COCO(root=str(root), **files, **swapped, image_size=VIT_KWARGS["img_size"], augment=False)
    cache_features(
        data, VisionEncoder(VIT_NAME, weights, model_args=model_args), root / "features", processes=processes
    )
