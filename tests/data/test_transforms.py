import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lit_blip2.data.transforms import eval_view, random_crop, train_view
from lit_blip2.pixels import CLIP_MEAN, CLIP_STD, normalise


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def noise():
    return Image.fromarray(rng().integers(0, 256, (40, 60, 3), dtype=np.uint8))


def normal(pixels_3HW):
    return normalise(pixels_3HW[None], CLIP_MEAN, CLIP_STD)[0]


def plain(image, size):
    """The same pixels by torchvision's own pipeline on a PIL image."""
    steps = [v2.Resize((size, size), v2.InterpolationMode.BICUBIC), v2.PILToTensor()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(CLIP_MEAN, CLIP_STD)])(image)


def test_evaluation_equals_torchvision(noise):
    torch.testing.assert_close(normal(eval_view(noise, 16)), plain(noise, 16), rtol=0, atol=2e-6)
    grey = torch.tensor(CLIP_MEAN).view(3, 1, 1) * torch.ones(3, 5, 5)
    mean = Image.fromarray((grey * 255).round().byte().permute(1, 2, 0).numpy())
    assert normal(eval_view(mean, 5)).abs().max() < 0.01


@pytest.mark.parametrize("size", [(40, 60), (300, 180), (11, 7)], ids=str)
def test_evaluation_equals_the_hugging_face_blip2_processor(size):
    """To the last digits where it resizes with Pillow; where with torchvision, to one of 256 grey levels."""
    from transformers import BlipImageProcessor, BlipImageProcessorPil

    photo = Image.fromarray(rng().integers(0, 256, (*size, 3), dtype=np.uint8))
    ours = normal(eval_view(photo, 24))
    for processor, tolerance in ((BlipImageProcessorPil, 2e-6), (BlipImageProcessor, 1.01 / 255 / min(CLIP_STD))):
        theirs = processor(size={"height": 24, "width": 24})(photo, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_training_is_a_function_of_the_generator(noise):
    first, again, other = (train_view(noise, 16, rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 16, 16) and first.dtype == torch.uint8
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(7)
    assert torch.equal(first, train_view(noise, 16, rng(1)))


def test_training_view_is_the_crop_it_drew(noise):
    for seed in range(6):
        generator = rng(seed)
        top, left, height, width = random_crop(40, 60, generator)
        crop = noise.crop((left, top, left + width, top + height))
        if generator.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # resizing first and flipping after differs from this only by rounding
        assert (normal(train_view(noise, 16, rng(seed))) - plain(crop, 16)).abs().max() < 0.03


def test_crops_lie_inside_and_have_the_right_areas():
    generator, areas, shapes = rng(), [], []
    for _ in range(3000):
        top, left, height, width = random_crop(200, 240, generator)
        assert 0 <= top <= 200 - height and 0 <= left <= 240 - width
        areas.append(height * width / (200 * 240))
        shapes.append(width / height)
    assert 0.49 < min(areas) < 0.51 and 0.97 < max(areas) <= 1
    assert min(shapes) > 0.74 and max(shapes) < 1.35


@pytest.mark.parametrize(("height", "width"), [(5, 500), (500, 5), (1, 1), (1, 30)])
def test_extreme_shapes_fall_back_to_a_centred_crop(height, width):
    top, left, h, w = random_crop(height, width, rng())
    assert 0 < h <= height and 0 < w <= width and (top, left) == ((height - h) // 2, (width - w) // 2)
    assert train_view(Image.new("RGB", (width, height)), 8, rng()).shape == (3, 8, 8)
