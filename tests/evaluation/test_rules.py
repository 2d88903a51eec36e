"""The rules of a test: kept beside its metrics, and told where they differ."""

import json

import pytest

from lit_blip2.config import Experiment
from lit_blip2.evaluation.rules import (
    differing,
    folder_name,
    is_of_other_weights,
    kept_rules,
    of_metric,
    read_rules,
    rules_of,
    write_rules,
)

RULES = {"prompt": "a photo of", "question": "{}", "vqa_num_beams": 5, "scoring": "official", "lemmatise": False}


def test_what_is_written_is_read(tmp_path):
    write_rules(tmp_path, RULES, "table 2")
    assert read_rules(tmp_path) == RULES and json.loads((tmp_path / "decoding.json").read_text())["preset"] == "table 2"
    assert kept_rules(tmp_path) == {}
    (tmp_path / "metrics.json").write_text(json.dumps({"evaluated/val_images": 3}))
    assert kept_rules(tmp_path) == {}
    (tmp_path / "metrics.json").write_text(json.dumps({"evaluated/test_images": 3}))
    assert kept_rules(tmp_path) == RULES


def test_random_parts_are_named_and_are_no_rule(tmp_path):
    write_rules(tmp_path, RULES, random=["image encoder vit"])
    assert json.loads((tmp_path / "decoding.json").read_text())["random"] == ["image encoder vit"]
    assert read_rules(tmp_path) == RULES


def test_a_test_of_other_weights_is_known_by_their_norm(tmp_path):
    """Two runs of as many steps may be tested into one folder; equal weights may sum otherwise on another machine."""
    write_rules(tmp_path, RULES, weights=3.5)
    assert not is_of_other_weights(tmp_path, 4.0)  # no metrics yet
    (tmp_path / "metrics.json").write_text(json.dumps({"evaluated/test_images": 3}))
    assert is_of_other_weights(tmp_path, 3.5001) and not is_of_other_weights(tmp_path, 3.5 + 1e-10)
    write_rules(tmp_path, RULES)
    assert not is_of_other_weights(tmp_path, 4.0)  # of an older test nothing is known


def test_an_older_file_tells_what_it_has(tmp_path):
    scoring = {"answers": "lavis", "lemmatise": True, "tokenizer": "ptb", "meteor": False}
    answers, captions = {"prompt": "Q: {}", "in_context": 2, "no_image": True, "num_beams": 4}, {"prompt": ""}
    kept = {"preset": "", "answers": answers, "captions": captions, "scoring": scoring}
    (tmp_path / "decoding.json").write_text(json.dumps(kept))
    found = {"scoring": "lavis", "lemmatise": True, "caption_tokenizer": "ptb", "in_context": 2, "vqa_num_beams": 4}
    assert read_rules(tmp_path) == found | {"question": "Q: {}", "prompt": ""}


def test_settings_tell_the_rules_and_a_validation_has_its_own():
    model = {"net": {"class_path": "x", "init_args": {"prompt": "p"}}, "scoring": "lavis", "caption_tokenizer": "ptb"}
    settings = Experiment({"model": {"class_path": "y", "init_args": model | {"in_context": 4, "rerank": 7}}}, "here")
    ours = {"prompt": "p", "scoring": "lavis", "rerank": 7}
    assert rules_of(settings) == ours | {"caption_tokenizer": "ptb", "in_context": 4}
    assert rules_of(settings, "fit") == ours | {"caption_tokenizer": "spaces", "in_context": 0}


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("vqa/accuracy", {"question", "vqa_num_beams", "scoring", "lemmatise"}),
        ("caption/cider", {"prompt"}),
        ("binding/itm_accuracy", set()),
        ("own/metric", set()),
    ],
)
def test_a_metric_stands_under_the_rules_of_its_task(metric, names):
    assert of_metric(RULES, metric).keys() == names


def test_the_numbers_that_are_computed_in_are_rules_of_every_metric():
    net = {"vision": {"dtype": "float16"}, "language": {"class_path": "x", "init_args": {"bits": None}}}
    settings = {"model": {"init_args": {"net": net}}, "trainer": {"precision": None}}
    numbers = {"precision": "32-true", "vision.dtype": "float16", "language.bits": None}
    assert rules_of(Experiment(settings, "here")) == numbers == of_metric(numbers, "own/metric")
    for given, meant in ((32, "32-true"), ("16", "16-mixed"), ("bf16", "bf16-mixed"), ("bf16-true", "bf16-true")):
        assert rules_of(Experiment({"trainer": {"precision": given}}, "here")) == {"precision": meant}


def test_differences_name_a_folder():
    assert differing(RULES, {"scoring": "lavis", "rerank": 3}) == {"scoring": ("official", "lavis")}
    name = folder_name({"scoring": "lavis", "question": "../Question: {} " + "long " * 20})
    assert name.startswith("scoring=lavis,question=.._Question_") and len(name) == 60
