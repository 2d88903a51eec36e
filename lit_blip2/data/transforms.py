"""From an image to a float tensor. Random choices come from a generator that the caller keys.

Training: random resized crop, scale (0.5, 1), bicubic, and a horizontal flip. Evaluation: resized to the
square, bicubic, no crop. Both end with CLIP's mean and standard deviation (NUMERICS, Images and text).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_SCALE = (1 / 255 / torch.tensor(CLIP_STD, dtype=torch.float64)).float().view(3, 1, 1)
_SHIFT = (-torch.tensor(CLIP_MEAN, dtype=torch.float64).view(3, 1, 1) * 255 * _SCALE).float()


def train_transform(image: Image.Image, size: int, rng: np.random.Generator) -> torch.Tensor:
    """A random crop, perhaps flipped: float32 [3, size, size]. A function of the image and `rng` only."""
    return normalise([training_view(image, size, rng)])[0]


def eval_transform(image: Image.Image, size: int) -> torch.Tensor:
    """The whole image squeezed into a square: float32 [3, size, size]."""
    return normalise([training_view(image, size, None)])[0]


def training_view(image: Image.Image, size: int, rng: np.random.Generator | None) -> torch.Tensor:
    """Pixels uint8 [3, size, size]: cropped and perhaps flipped as `rng` draws; without it the whole image."""
    if rng is None:
        return F.pil_to_tensor(F.resize(image, [size, size], InterpolationMode.BICUBIC, antialias=True))
    top, left, height, width = random_crop(image.height, image.width, rng)
    image = F.resized_crop(image, top, left, height, width, [size, size], InterpolationMode.BICUBIC, antialias=True)
    return F.pil_to_tensor(F.horizontal_flip(image) if rng.random() < 0.5 else image)


def normalise(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pixels uint8 [3, size, size] each to one float32 [B, 3, size, size]: (value / 255 - mean) / std as a product and
    a sum, where the batch wants them, so that no view is copied again."""
    batch_B3HW = torch.empty(len(views), *views[0].shape)
    for out_3HW, view_3HW in zip(batch_B3HW, views, strict=True):
        out_3HW.copy_(view_3HW).mul_(_SCALE).add_(_SHIFT)
    return batch_B3HW


def random_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop: its share of the area uniform in `scale`, its width / height
    log-uniform in `ratio`. After ten draws that do not fit: the largest centred crop within `ratio`.
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
