"""Pixels become numbers in one way, with the mean and standard deviation that the encoder's own card says."""

import json
import math
import warnings

import pytest
import torch

from lit_blip2.pixels import CLIP_MEAN, CLIP_STD, UNNOTED, Looks, card_beside, normalise, tell_unread

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
        ({"mean": [123.7, 116.3, 103.5]}, r"a_net: mean=\(123\.7, 116\.3, 103\.5\)"),
        ({"std": [58.4, 57.1, 57.4]}, r"a_net: std=\(58\.4, 57\.1, 57\.4\)"),
        ({"mean": [0.5, math.nan, 0.5]}, r"a_net: mean=\(0\.5, nan, 0\.5\)"),
        ({"std": [0.5, 0.5, math.inf]}, r"a_net: std=\(0\.5, 0\.5, inf\)"),
        ({"mean": 0.5}, r"a_net: mean=0\.5"),
        ({"std": ["a", "b", "c"]}, r"a_net: std=\('a', 'b', 'c'\)"),
        ({"interpolation": "random"}, "interpolation='random'.*bicubic or bilinear"),
    ],
)
def test_what_no_image_can_look_like_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Looks.of(UNNOTED | wrong, "a_net")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"pretrained_cfg": {"mean": [128, 128, 128]}}, r"config\.json: mean=\(128, 128, 128\)"),
        ({"pretrained_cfg": [1]}, r"config\.json: pretrained_cfg is \[1\]"),
        ({"pretrained_cfg": {"input_size": 224}}, r"config\.json: input_size is 224, where \[3, height, width\]"),
    ],
)
def test_a_card_that_cannot_be_is_refused_with_its_name(tmp_path, content, words):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        card_beside(tmp_path / "model.safetensors", "x")


def test_what_a_card_leaves_empty_is_not_said_and_its_first_bytes_may_say_utf8(tmp_path):
    content = {
        "architecture": "x",
        "pretrained_cfg": None,
        "std": None,
        "input_size": [3, 96, 96],
        "model_args": {"a": 1},
    }
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8-sig")
    assert card_beside(tmp_path / "model.safetensors", "x") == {"size": 96, "model_args": {"a": 1}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("open_clip_config.json", {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear"}}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5], "resample": 2}),
        ("preprocessor_config.json", {"image_mean": 0.5, "resample": 2, "image_std": UNNOTED["std"]}),
        ("processor_config.json", {"image_processor": {"image_mean": [0.5, 0.5, 0.5], "resample": 2}}),
        ("config.json", {"mean": [0.5, 0.5, 0.5], "std": UNNOTED["std"], "interpolation": "bilinear"}),
    ],
)
def test_another_projects_card_that_says_otherwise_is_told_of(tmp_path, name, content):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.warns(
        UserWarning, match=rf"{name} says mean .*0\.5.*bilinear, and is not .*set model\.net\.vision\.mean, i"
    ):
        tell_unread(tmp_path / "x.bin", Looks.of(UNNOTED, "a_net"), "a_net")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = UNNOTED | {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
        tell_unread(tmp_path / "x.bin", Looks.of(same, "a_net"), "a_net")


@pytest.mark.parametrize("nested", [True, False])
def test_the_card_beside_weights_is_timms(tmp_path, nested):
    card = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "interpolation": "bilinear"}
    content = {"architecture": "x"} | ({"pretrained_cfg": card | {"crop_pct": 0.9}} if nested else card)
    assert card_beside(tmp_path / "model.safetensors", "x.tag") == {}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert card_beside(tmp_path / "model.safetensors", "x.tag") == card


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"architecture": "a_net", "mean": [0.5, 0.5, 0.5]}),  # timm's, which is read
        ("config.json", {"model_type": "clip", "vision_config": {"image_size": 224}}),
        ("processor_config.json", {"processor_class": "Blip2Processor", "num_query_tokens": 32}),
    ],
)
def test_cards_that_are_read_or_say_nothing_of_images_are_not_told_of(tmp_path, recwarn, name, content):
    (tmp_path / name).write_text(json.dumps(content))
    tell_unread(tmp_path / "x.bin", Looks.of(UNNOTED, "a_net"), "a_net")
    assert not recwarn.list


def test_a_mean_that_is_no_number_is_told_of(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"mean": "imagenet", "std": {"r": 1}}))
    with pytest.warns(UserWarning, match=r"config\.json says mean imagenet, std .*and is not read"):
        tell_unread(tmp_path / "x.bin", Looks.of(UNNOTED, "a_net"), "a_net")


def test_another_programs_card_says_nothing_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert card_beside(tmp_path / "model.safetensors", "x.tag") == {}
    (tmp_path / "config.json").write_text('{"mean": [')
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        card_beside(tmp_path / "model.safetensors", "x.tag")


def test_the_card_of_another_architecture_is_left_out(tmp_path):
    file, card = tmp_path / "config.json", {"mean": [0.5, 0.5, 0.5]}
    file.write_text(json.dumps({"architecture": "y", "pretrained_cfg": card}))
    with pytest.warns(UserWarning, match=r"config\.json is of y, not of image encoder x\.tag.*its activation"):
        assert card_beside(tmp_path / "model.safetensors", "x.tag") == {}
    file.write_text(json.dumps(card))
    assert card_beside(tmp_path / "model.safetensors", "x") == {}
    file.write_text(json.dumps({"pretrained_cfg": card}))
    assert card_beside(tmp_path / "model.safetensors", "x") == card
