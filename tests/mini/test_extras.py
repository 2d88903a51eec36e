"""A mark or a digit in a scene: what it looks like, what is said and asked of it, and who can see and read it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lit_blip2.commands.mini import make_mini
from lit_blip2.mini.extras import KINDS, asked, told_first, untold, with_extras
from lit_blip2.mini.grammar import OBJECTS, Question, caption_text, draw_questions
from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.render import GLYPHS, render
from lit_blip2.mini.scene_files import load_scenes, scene_from_json, scene_to_json
from lit_blip2.mini.scene_scores import description
from lit_blip2.mini.scores import Score, score_caption
from lit_blip2.mini.train.vit import VIT_KWARGS, VIT_NAME, pixels
from lit_blip2.mini.vocabulary import bert_tokenizer, opt_tokenizer, t5_tokenizer
from lit_blip2.mini.world import COLOURS, Extra, Object, Scene, stream_rng
from lit_blip2.mini.write import write_world
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.vision import VisionEncoder

RED_RING = Object(5, 0, 1, 4, 0, 0)


def scenes_with(kind: str, stream: str, count: int) -> list[Scene]:
    """Scenes that have it."""
    found, index = [], 0
    while len(found) < count:
        pair, _ = described_pair(3, stream, index, captions_per_image=1)
        drawn = with_extras(kind, [told.scene for told in pair], np.random.default_rng(index))
        found, index = [*found, *(scene for scene in drawn if scene.extra)], index + 1
    return found[:count]


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), index=st.integers(0, 10**6))
def test_a_pair_has_the_same_thing_in_a_colour_of_its_own(kind, index):
    scenes = [told.scene for told in described_pair(0, "train", index, 1)[0]]
    drawn = with_extras(kind, scenes, np.random.default_rng(index))
    assert [scene._replace(extra=None) for scene in drawn] == scenes
    shapes = {o.shape for scene in scenes for o in scene.objects}
    if kind == "detail" and 0 in shapes:
        assert all(scene.extra is None for scene in drawn)
        return
    one, two = (scene.extra for scene in drawn)
    assert one[:2] == two[:2] and one.colour not in {o.colour for scene in scenes for o in scene.objects}
    for scene in drawn:
        height, width = GLYPHS[scene.extra.noun].shape
        assert 0 <= scene.extra.x <= 64 - width and 0 <= scene.extra.y <= 64 - height


@pytest.mark.parametrize("noun", GLYPHS)
def test_only_its_own_pixels_change(noun):
    plain = Scene((RED_RING,), 0)
    small = plain._replace(extra=Extra(noun, COLOURS.index("white"), 28, 24))
    before, after = (render([scene], np.random.default_rng(5))[0].astype(int) for scene in (plain, small))
    changed = (before != after).any(-1)
    height, width = GLYPHS[noun].shape
    assert changed.sum() == GLYPHS[noun].sum() and (changed[24 : 24 + height, 28 : 28 + width] == GLYPHS[noun]).all()
    assert after[changed].mean() > 235


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a red ring", "an orange 3 and a red ring"),
        ("a red ring above a star", "an orange 3 and a red ring above a star"),
        ("a red ring and a star", "an orange 3 , a red ring and a star"),
    ],
)
def test_a_caption_tells_it_first(text, told):
    extra = Extra("3", COLOURS.index("orange"), 0, 0)
    assert told_first(text, extra) == told and untold(told) == text
    assert told_first(text, None) == text == untold(text)


def test_captions_are_scored_by_their_objects():
    scene = Scene((RED_RING,), 0, Extra("circle", COLOURS.index("blue"), 9, 9))
    assert score_caption("A blue circle and a large red ring.", scene) == Score(1.0, 1.0, 1.0)
    assert score_caption("a large red ring", scene) == Score(1.0, 1.0, 1.0)
    assert score_caption("a blue circle and a blue circle", scene) == Score(0.0, 0.0, 0.0)
    assert score_caption("a blue circle and a large red ring", scene._replace(extra=None)).precision == 0.5


def test_one_question_asks_for_it_and_none_for_the_number_of_objects():
    given = [Question("count", OBJECTS, "1"), Question("colour", "what color is the ring ?", "red")]
    mark, digit = (Extra(noun, COLOURS.index("blue"), 0, 0) for noun in ("circle", "4"))
    assert asked(given, mark) == [given[1], Question("detail", "what color is the circle ?", "blue")]
    assert asked(given, digit) == [given[1], Question("reading", "what shape is the blue object ?", "4")]
    assert asked(given, None) == given


def test_a_scene_s_record_gives_it_back():
    for extra in (None, Extra("circle", 3, 20, 30), Extra("0", 1, 5, 7)):
        scene = Scene((RED_RING,), 2, extra)
        assert scene_from_json(json.loads(json.dumps(scene_to_json(scene)))) == scene


@pytest.mark.parametrize("kind", KINDS)
def test_a_world_differs_from_the_plain_one_in_it_alone(kind, tmp_path):
    sizes = dict(train=4, val=12, test=2, seed=1, workers=1)
    write_world(tmp_path / "plain", **sizes)
    write_world(tmp_path / kind, **sizes, extra=kind)
    assert json.loads((tmp_path / "plain/settings.json").read_text()).keys() == {"version", *sizes} - {"workers"}
    plain, small = (load_scenes(tmp_path / name / "annotations/scenes_val.json") for name in ("plain", kind))
    assert plain.captions == small.captions and any(scene.extra for scene in small.scenes.values())
    for number, scene in small.scenes.items():
        assert scene._replace(extra=None) == plain.scenes[number]
        files = [tmp_path / name / f"images/val/{number:012d}.png" for name in ("plain", kind)]
        assert (files[0].read_bytes() == files[1].read_bytes()) == (scene.extra is None)
    folder = tmp_path / kind / "annotations"
    texts = json.loads((folder / "captions_val.json").read_text())["annotations"]
    wanted = {i: told_first(caption_text(said[0]), small.scenes[i].extra) for i, said in small.captions.items()}
    assert {each["image_id"]: each["caption"] for each in texts} == wanted
    types = [each["question_type"] for each in json.loads((folder / "answers_val.json").read_text())["annotations"]]
    assert types.count(kind) == sum(small.scenes[i].extra is not None for i in small.captions)
    for pair in json.loads((folder / "binding_val.json").read_text())["pairs"]:
        one, other = (small.scenes[pair[key]].extra for key in ("image_id", "swapped_image_id"))
        assert pair["caption"] == wanted[pair["image_id"]] and (one and one[:2]) == (other and other[:2])
    with pytest.raises(ValueError, match=rf"holds a mini-world of extra={kind} \(wanted None\)"):
        write_world(tmp_path / kind, **sizes)
    with pytest.raises(ValueError, match=f"extra={kind}: no style of captions has words for it"):
        make_mini(tmp_path / "both", extra=kind, styles=["boilerplate"])


def test_every_word_is_known_and_the_longest_caption_fits():
    for kind in KINDS:
        texts = [description(scene) for scene in scenes_with(kind, "val", 60)]
        for make in (opt_tokenizer, t5_tokenizer, bert_tokenizer):
            tokenizer = make()
            ids = tokenizer([*texts, *(asked([], s.extra)[0].text for s in scenes_with(kind, "val", 9))]).input_ids
            assert not any(tokenizer.unk_token_id in each for each in ids)
            assert max(map(len, ids)) <= 40  # max_text_tokens of the mini-world's experiments


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_language_model_answers_about_it_from_a_description(kind):
    language = LanguageModel("lit_blip2/mini/weights/opt", dtype="float32")
    language.load()
    scenes = scenes_with(kind, "val", 60)
    rows = [
        (scene, each) for scene in scenes for each in asked(draw_questions(scene, stream_rng(0, "val", 0)), scene.extra)
    ]
    prompts = [f"{description(scene)} Question: {each.text} Answer:" for scene, each in rows]
    said = language.generate(None, prompts, max_new_tokens=4, num_beams=1)
    right = {name: [] for name in {each.type for _, each in rows}}
    for (_, each), answer in zip(rows, said, strict=True):
        right[each.type].append(answer == each.answer)
    assert np.mean(right.pop(kind)) > 0.9
    assert np.mean([np.mean(each) for each in right.values()]) > 0.85


def ridge(train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor]) -> float:
    """The accuracy of a linear probe, fitted by least squares."""
    (x_ND, y_N), (other_ND, truth_N) = train, test
    mean_D, std_D = x_ND.mean(0), x_ND.std(0)
    x_ND, other_ND = (F.pad((each - mean_D) / std_D, (0, 1), value=1.0) for each in (x_ND, other_ND))
    weight_DK = torch.linalg.solve(x_ND.T @ x_ND + 30 * torch.eye(x_ND.shape[1]), x_ND.T @ F.one_hot(y_N).float())
    return ((other_ND @ weight_DK).argmax(1) == truth_N).float().mean().item()


def under(scenes: list[Scene], encoder: VisionEncoder) -> torch.Tensor:
    """The features of the patch under the middle of each scene's thing [N, D]."""
    rows = []
    for first in range(0, len(scenes), 100):
        block = scenes[first : first + 100]
        with torch.no_grad():
            features_BND = encoder(pixels(block, np.random.default_rng(first)))[:, -64:].float()
        for scene, features_ND in zip(block, features_BND):
            height, width = GLYPHS[scene.extra.noun].shape
            rows.append(features_ND[(scene.extra.y + height // 2) // 8 * 8 + (scene.extra.x + width // 2) // 8])
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "about", "least", "most"),
    [("detail", "colour", 0.35, 0.65), ("reading", "noun", 0.65, 0.95)],
)
def test_what_a_linear_probe_finds_of_it_in_the_shipped_encoder(kind, about, least, most):
    """The patch under a mark tells in about half of the scenes which of eight colours it has, that under a digit mostly
    which of five it is: what ablations/detail.yaml and reading.yaml can find at best by looking at one patch."""
    model_args = {key: value for key, value in VIT_KWARGS.items() if key != "num_classes"}
    encoder = VisionEncoder(VIT_NAME, "lit_blip2/mini/weights/vit.safetensors", model_args=model_args)
    encoder.load()
    sets = []
    for stream, count in (("train", 2000), ("val", 500)):
        scenes = scenes_with(kind, stream, count)
        labels = [scene.extra.colour if about == "colour" else int(scene.extra.noun) for scene in scenes]
        sets.append((under(scenes, encoder), torch.tensor(labels)))
    assert least < ridge(*sets) < most
