"""Experiments resolved without weights: what they would write, and what keeps them from running."""

import json
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import Logger

from lit_blip2.complaints import reason
from lit_blip2.refusals import refusal
from lit_blip2.resolve import main

START = "--model.init_from=null"
pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The names of the files that are looked for, and the types of questions."""
    root = tmp_path_factory.mktemp("world")
    (root / "annotations").mkdir()
    (root / "images/test").mkdir(parents=True)
    for split in ("train", "val", "test"):
        for kind in ("captions", "questions", "answers", "binding", "scenes"):
            (root / "annotations" / f"{kind}_{split}.json").touch()
        marked = {"annotations": [{"question_type": name} for name in ("count", "how many", "count")]}
        (root / "annotations" / f"answers_{split}.json").write_text(json.dumps(marked))
    pope = {"question_id": 1, "image": "1.png", "text": "a dog ?", "label": "no", "category": "random"}
    (root / "annotations/pope_test.json").write_text(json.dumps(pope))
    captions = [{"image_id": 1, "caption": "a dog"}]
    (root / "one.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png"}], "annotations": captions}))
    return root


@pytest.fixture(scope="module")
def answers(world):
    """All requests at once, as a sweep asks them."""
    stage1, opt = ["--config", "experiments/mini_stage1.yaml"], ["--config", "experiments/mini_opt.yaml"]
    joint = ["--config", "experiments/mini_joint.yaml"]
    here = [f"--data.root={world}", "--data.features=null"]
    questions = "{questions: annotations/questions_test.json, annotations: annotations/answers_test.json}"
    asked = {
        "no itm": ("fit", [*stage1, *here, "--model.net.itm=null"]),
        "itm alone": ("test", [*stage1, *here, "--model.net.itc=null", "--model.net.itg=null"]),
        "stage 2": ("test", [*opt, *here, "--model.init_from=$stage1"]),
        "no test set": ("test", [*opt, *here, "--data.test=null", "--data.vqa_test=null"]),
        "pope": ("test", [*opt, "--config", "experiments/mini_test/pope.yaml", *here]),
        "pope, data not yet": ("test", [*opt, "--config", "experiments/mini_test/pope.yaml", "--data.root=nowhere"]),
        "no batches": ("test", [*opt, *here, "--trainer.limit_test_batches=0"]),
        "answers without a language model": (
            "test",
            [
                *stage1,
                *here,
                "--data.test=null",
                "--data.binding_test=null",
                f"--data.vqa_test={questions}",
            ],
        ),
        "joint": ("test", [*joint, *here]),
        "joint without lm": ("test", [*joint, *here, "--model.net.lm=null"]),
        "joint lm alone": ("fit", [*joint, *here, *(f"--model.net.{name}=null" for name in ("itc", "itm", "itg"))]),
        "no validation": ("fit", [*stage1, *here, "--trainer.limit_val_batches=0"]),
        "validation beyond the end": ("fit", [*stage1, *here, "--trainer.val_check_interval=681"]),
        "validation at the end": ("fit", [*stage1, *here, "--trainer.val_check_interval=680"]),
        "validation in accumulated batches": (
            "fit",
            [*stage1, *here, "--trainer.val_check_interval=681", "--trainer.accumulate_grad_batches=2"],
        ),
        "test without validation": ("test", [*stage1, *here, "--trainer.limit_val_batches=0"]),
        "joint of nothing": ("fit", [*joint, *here, *(f"--model.net.{n}=null" for n in ("itc", "itm", "itg", "lm"))]),
        "misspelt": ("fit", [*stage1, *here, "--model.net.itmm=null"]),
        "refused": ("fit", [*stage1, *here, "--model.net.qformer.num_queries=0"]),
        "no batch": ("fit", [*stage1, *here, "--data.batch_size=0"]),
        "nested": ("fit", [*stage1, *here, "--model.net.qformer.hiden=4"]),
        "trainer": ("fit", [*stage1, *here, "--trainer.max_stepss=4"]),
        "warm-up": ("fit", [*stage1, *here, "--trainer.max_steps=4"]),
        "no data": ("fit", [*stage1, "--data.root=nowhere"]),
        "no file": ("fit", ["--config", "experiments/nowhere.yaml"]),
        "stage 2, data not yet": ("test", [*opt, "--data.root=nowhere"]),
        "no images": (
            "test",
            [*stage1, *here, "--data.images=elsewhere", "--data.test=one.json", "--data.binding_test=null"],
        ),
        "no weights": ("fit", [*stage1, *here, "--model.net.tokenizer=no/bert"]),
        "weights not yet": (
            "fit",
            [*stage1, *here, "--model.net.tokenizer=no/bert", "--model.net.vision.weights=no/vit.safetensors"],
        ),
        "no such part": ("fit", [*opt, *here, "--model.net.bridge=lit_blip2.model.resampler.Resampler", START]),
        "data not yet": ("fit", [*stage1, "--data.root=nowhere"]),
    }
    requests = json.dumps(
        [
            {"command": command, "arguments": arguments, "files": not name.endswith("not yet")}
            for name, (command, arguments) in asked.items()
        ]
    )
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as answered:
        patch.setattr(sys, "stdin", StringIO(requests))
        main()
    return dict(zip(asked, json.loads(answered.getvalue()), strict=True))


def test_a_config_is_resolved_with_every_default(answers):
    net = answers["no itm"]["config"]["model"]["init_args"]["net"]["init_args"]
    assert net["itm"] is None and net["itc"]["init_args"]["temperature"] == 0.07
    assert answers["no itm"]["steps"] == 680
    assert answers["stage 2"]["config"]["model"]["init_args"]["init_from"] == "$stage1"


def test_data_that_are_still_to_be_made_are_not_looked_for_when_asked_so(answers):
    assert "retrieval/itc_txt_r1" in answers["data not yet"]["metrics"]


def test_data_that_are_not_there_yet_are_named(answers):
    for name, split in (("data not yet", "val"), ("stage 2, data not yet", "test")):
        assert (
            f"missing: nowhere/annotations/captions_{'train' if split == 'val' else split}.json"
            in answers[name]["missing"][0]
        )
        assert "made by python -m lit_blip2 data make-mini" in answers[name]["missing"][0]
    assert answers["no itm"]["missing"] == answers["stage 2"]["missing"] == []


def test_weights_that_are_not_there_yet_are_named_with_the_way_to_get_them(answers):
    tokenizer, encoder = answers["weights not yet"]["missing"]
    assert "no file or folder 'no/bert'. Get it" in tokenizer and "no file or folder 'no/vit.safetensors'" in encoder
    assert "no file or folder 'no/bert'" in answers["no weights"]["error"]


def test_a_test_without_its_images_is_refused(answers):
    assert "elsewhere/1.png" in answers["no images"]["error"]


def test_it_says_what_can_be_written(answers):
    assert "retrieval/itc_txt_r1" in answers["no itm"]["metrics"]
    assert not {"loss/itm", "retrieval/itm_txt_r1", "binding/itm_accuracy"} & set(answers["no itm"]["metrics"])
    about = {f"evaluated/test_{name}" for name in ("images", "images_share", "pairs", "pairs_share", "step")}
    assert set(answers["itm alone"]["metrics"]) == {"loss/itm", "loss/total", "binding/itm_accuracy"} | about
    metrics = set(answers["stage 2"]["metrics"])
    assert {"vqa/no_image", "caption/exact", "llm/text_qa", "vqa/objects_4"} <= metrics
    assert {name for name in metrics if name.startswith("vqa/type_")} == {"vqa/type_count", "vqa/type_how_many"}
    assert "vqa/type_*" in answers["stage 2, data not yet"]["metrics"]
    assert not [name for name in metrics if name.startswith(("pope/", "vqa/yes_"))]


def test_popes_samplings_are_named_and_count_nowhere_else(answers):
    assert "pope/*" in answers["pope, data not yet"]["metrics"]
    assert "pope/*" not in answers["stage 2, data not yet"]["metrics"]  # whose answers have a file of their own
    metrics = set(answers["pope"]["metrics"])
    assert {"pope/accuracy", "pope/random_accuracy", "pope/random_yes_f1", "vqa/yes_*"} <= metrics
    assert not {"pope/*", "pope/popular_accuracy", "vqa/objects_4", "caption/cider"} & metrics


def test_joint_training_writes_what_its_objectives_can(answers):
    whole, first, second = (set(answers[f"joint{which}"]["metrics"]) for which in ("", " without lm", " lm alone"))
    both = {"loss/total", "loss/lm", "retrieval/sum_img_r1", "binding/itm_accuracy", "vqa/no_image", "llm/text_qa"}
    assert both <= whole and first < whole
    assert first >= {"loss/total", "retrieval/sum_img_r1"} and not {"loss/lm", "vqa/accuracy", "caption/exact"} & first
    assert second >= {"loss/lm", "caption/exact"} and not {"loss/total", "binding/itm_accuracy"} & second
    assert "itc, itm, itg and lm are all null" in answers["joint of nothing"]["error"]


def test_a_fit_that_never_validates_writes_nothing(answers):
    written = {name: answers[name]["metrics"] for name in answers if "validation" in name}
    assert written["no validation"] == written["validation beyond the end"] == []
    assert "loss/itc" in written["validation at the end"] and "loss/itc" in written["test without validation"]
    assert "loss/itc" in written["validation in accumulated batches"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("misspelt", "lit_blip2.objectives.stage1.Stage1: Option 'itmm' is not accepted"),
        ("refused", "num_queries=0 must be at least 1"),
        ("no batch", "data.batch_size=0: each must be at least 1"),
        ("nested", "Option 'hiden' is not accepted"),
        ("trainer", "unknown option --trainer.max_stepss, did you mean '--trainer.max_steps'"),
        ("warm-up", "warmup_steps=60 must be less than trainer.max_steps=4"),
        ("no data", "missing: nowhere/annotations/captions_train.json"),
        ("no file", "experiments/nowhere.yaml"),
        ("no such part", "lr_scale names net.bridge.projection, and no trainable parameter begins so: name one of"),
    ],
)
def test_what_cannot_be_run_says_why_in_one_line(answers, name, message):
    assert message in answers[name]["error"] and "\n" not in answers[name]["error"]


def test_a_plain_complaint_stays_as_it_is():
    assert reason("lr=0 must be positive") == "lr=0 must be positive"


def test_what_a_logger_says_while_it_is_made_is_told():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--logger", type=Logger | Iterable[Logger] | bool | None)
    given = parser.parse_object({"logger": [{"class_path": "tests.trackers.Refusing"}]})
    with pytest.raises(ValueError) as caught:
        parser.instantiate_classes(given)
    assert reason(str(caught.value)) == "no server answers: set URI"
    assert refusal(caught.value) == "no server answers: set URI"


def test_a_test_of_nothing_is_an_error(answers):
    assert answers["no test set"]["error"].startswith("nothing can be tested: the data have no test set, and the model")
    assert answers["no batches"]["error"].startswith("trainer.limit_test_batches=0 or fast_dev_run: nothing would")
    assert "Name a test set in the step's `with`" in answers["answers without a language model"]["error"]
