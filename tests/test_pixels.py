"""Pixels become numbers in one way, with the mean and standard deviation that the encoder's own card says."""

import json

import pytest
import torch

from lit_blip2.pixels import CLIP_MEAN, CLIP_STD, UNNOTED, Looks, card_beside, normalise

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("mean", "std"), [(CLIP_MEAN, CLIP_STD), IMAGENET, ((0.5,) * 3, (0.5,) * 3)])
def test_every_value_is_normalised_as_said(mean, std):
    pixels_B3HW = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 4, 1)
    found = normalise(pixels_B3HW, mean, std)
    mean_311, std_311 = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (mean, std))
    torch.testing.assert_close(found.double(), (pixels_B3HW / 255 - mean_311) / std_311, rtol=0, atol=4e-7)
    scale_311 = (1 / 255 / std_311).float()  # to the last bit, a product and a sum in float32
    shift_311 = (-mean_311 * 255 * scale_311).float()
    assert torch.equal(found, pixels_B3HW.float() * scale_311 + shift_311)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mean": [0.5, 0.5]}, r"a_net: mean=\(0\.5, 0\.5\)"),
        ({"std": [0.5, 0.0, 0.5]}, r"a_net: std=\(0\.5, 0\.0, 0\.5\)"),
        ({"interpolation": "random"}, "interpolation='random'.*bicubic or bilinear"),
    ],
)
def test_what_no_image_can_look_like_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Looks.of(UNNOTED | wrong, "a_net")


@pytest.mark.parametrize("nested", [True, False])
def test_the_card_beside_weights_is_timms(tmp_path, nested):
    card = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "interpolation": "bilinear"}
    content = {"architecture": "x"} | ({"pretrained_cfg": card | {"crop_pct": 0.9}} if nested else card)
    assert card_beside(tmp_path / "model.safetensors", "x.tag") == {}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert card_beside(tmp_path / "model.safetensors", "x.tag") == card


def test_another_programs_card_says_nothing_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert card_beside(tmp_path / "model.safetensors", "x.tag") == {}
    (tmp_path / "config.json").write_text('{"mean": [')
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        card_beside(tmp_path / "model.safetensors", "x.tag")


def test_the_card_of_another_architecture_is_left_out(tmp_path):
    file, card = tmp_path / "config.json", {"mean": [0.5, 0.5, 0.5]}
    file.write_text(json.dumps({"architecture": "y", "pretrained_cfg": card}))
    with pytest.warns(UserWarning, match=r"config\.json is of y, not of image encoder x\.tag"):
        assert card_beside(tmp_path / "model.safetensors", "x.tag") == {}
    file.write_text(json.dumps(card))
    assert card_beside(tmp_path / "model.safetensors", "x") == {}
    file.write_text(json.dumps({"pretrained_cfg": card}))
    assert card_beside(tmp_path / "model.safetensors", "x") == card
