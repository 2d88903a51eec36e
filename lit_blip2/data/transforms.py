"""Turns images into pixels of one size. Random choices come from a generator that the caller seeds.

Training: random resized crop, scale (0.5, 1), and a horizontal flip. Evaluation: resized to the square, no crop. Values
stay 8-bit: the image encoder normalises them, with its own mean and standard deviation.
"""

import math

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F


def eval_view(image: Image.Image, size: int, interpolation: str = "bicubic") -> torch.Tensor:
    """The whole image squeezed into a square: pixels uint8 [3, size, size]."""
    return F.pil_to_tensor(F.resize(image, [size, size], InterpolationMode(interpolation), antialias=True))


def train_view(
    image: Image.Image, size: int, rng: np.random.Generator | None, interpolation: str = "bicubic"
) -> torch.Tensor:
    """Pixels uint8 [3, size, size]: cropped and perhaps flipped as `rng` draws; without it the whole image."""
    if rng is None:
        return eval_view(image, size, interpolation)
    box, filtered = random_crop(image.height, image.width, rng), InterpolationMode(interpolation)
    image = F.resized_crop(image, *box, [size, size], filtered, antialias=True)
    return F.pil_to_tensor(F.horizontal_flip(image) if rng.random() < 0.5 else image)


def random_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop. Its share of the area is uniform in `scale`, its width / height
    log-uniform in `ratio`. After ten draws that do not fit, it is the largest centred crop within `ratio`.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w
