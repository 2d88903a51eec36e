"""Tests of a run on sets with and without answers: what is scored, what is written, and in which order."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from lit_blip2.data.coco import COCO
from lit_blip2.lit import LitStage2
from lit_blip2.lit.callbacks import MetricsFile, Pictures, drawing
from lit_blip2.lit.evaluators.representation import Representation
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.mini.write import write_world
from tests.lit.stub import Stage2Stub

pytestmark = pytest.mark.filterwarnings("ignore")
QUESTIONS = {"questions": "annotations/questions_test.json"}
ANSWERS = {"annotations": "annotations/answers_test.json"}


class Net(Stage2Stub):
    """Says the same of every image."""

    def __init__(self, said: str):
        objective = SimpleNamespace(text=lambda *caption: None, weight=1.0)
        super().__init__(SimpleNamespace(generate=self.generate, loss=self.loss), objective)
        self.said = said

    def loss(self, prefix_BPD, target):
        return torch.ones(len(prefix_BPD)), torch.arange(len(prefix_BPD))

    def generate(self, prefix_BPD, prompts, examples=(), **how):
        return [self.said] * len(prompts)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A mini-world whose test images have domains, and lists of them as a server gives."""
    root = tmp_path_factory.mktemp("servers") / "mini"
    write_world(root, train=2, val=2, test=4, workers=1)
    captions = json.loads((root / "annotations/captions_test.json").read_text())
    for image, domain in zip(captions["images"], ["in", "near", "out", "in"]):
        image["domain"] = f"{domain}-domain"
    (root / "domains.json").write_text(json.dumps(captions))
    (root / "secret.json").write_text(json.dumps({"images": captions["images"]}))
    return root


def evaluated(root, folder, said="a red circle", files=None, batch: int = 3, limit=1.0, **generation) -> LitStage2:
    data = COCO(str(root), image_size=32, augment=False, eval_batch_size=batch, **(files or {}))
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False)
    module, how = LitStage2(Net(said), AdamWCosine(), **generation), dict(limit_test_batches=limit)
    L.Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **how).test(module, data, verbose=False)
    return module


def kept(folder) -> dict[str, list]:
    read = {file.name: file.read_text() for file in folder.iterdir() if file.suffix in (".json", ".jsonl")}
    return {name: json.loads(text) for name, text in read.items() if name.endswith(".json")} | {
        name: [json.loads(line) for line in text.splitlines()] for name, text in read.items() if name.endswith("jsonl")
    }


def asked(root) -> list[dict]:
    return json.loads((root / QUESTIONS["questions"]).read_text())["questions"]


def test_nocaps_has_domains_and_every_figure_an_interval(root, tmp_path):
    module = evaluated(root, tmp_path, files=dict(test="domains.json", vqa_test=QUESTIONS | ANSWERS))
    logged = set(module.trainer.callback_metrics) - {"step"}
    assert {"caption/cider_in", "caption/cider_near", "caption/cider_out", "caption/rouge_l"} <= logged
    found = kept(tmp_path)
    evaluated_on = {"evaluated/test_images": 4, "evaluated/test_questions": len(asked(root))}
    evaluated_on |= {f"{name}_share": 1 for name in evaluated_on}
    assert {name: module.trainer.callback_metrics[name].item() for name in evaluated_on} == evaluated_on
    assert found["intervals.json"].keys() == logged - {"loss/lm", *evaluated_on}
    rows = [row for row in found["predictions.jsonl"] if row["task"] == "caption"]
    assert sorted(row["domain"] for row in rows) == ["in-domain", "in-domain", "near-domain", "out-domain"]
    names = module.metric_names({"caption", "vqa"}, "test")
    assert logged <= names | {name for name in logged if name.startswith(("vqa/type_", "caption/cider_"))}


def test_sets_without_answers_are_answered_for_their_servers(root, tmp_path):
    module = evaluated(root, tmp_path, files=dict(test="secret.json", vqa_test=QUESTIONS))
    assert {name.partition("/")[0] for name in module.trainer.callback_metrics} <= {"step", "evaluated"}
    found = kept(tmp_path)
    written = {"predictions.jsonl", "decoding.json", "submission_captions.json", "submission_vqa.json"}
    assert found.keys() == written
    images = sorted(image["id"] for image in json.loads((root / "secret.json").read_text())["images"])
    assert found["submission_captions.json"] == [{"image_id": number, "caption": "a red circle"} for number in images]
    numbers = sorted(row["question_id"] for row in asked(root))
    assert [row["question_id"] for row in found["submission_vqa.json"]] == numbers


def test_a_part_of_a_split_says_so(root, tmp_path):
    with pytest.warns(UserWarning, match="the submissions hold 75 % of the test split: a server wants it whole"):
        module = evaluated(root, tmp_path, files=dict(test="secret.json"), limit=1)
    found = {name: value.item() for name, value in module.trainer.callback_metrics.items() if name != "step"}
    assert found == {"evaluated/test_images": 3, "evaluated/test_images_share": 0.75}


def test_metrics_by_other_rules_do_not_stay_in_a_folder_that_the_user_names(root, tmp_path):
    files = dict(test="secret.json")
    evaluated(root, tmp_path, files=files)
    (tmp_path / "metrics.json").write_text(json.dumps({"evaluated/test_images": 4, "caption/cider": 1.0}))
    evaluated(root, tmp_path, files=files, preset="another name, meteor adds a metric")
    assert (tmp_path / "metrics.json").exists()
    with pytest.warns(UserWarning, match=r"held a test by other rules.*'lavis'; caption_num_beams: 5 and 2"):
        evaluated(root, tmp_path, files=files, caption_num_beams=2, scoring="lavis")
    assert not (tmp_path / "metrics.json").exists()


def test_pictures_of_images_without_captions_show_what_was_said(root, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "sample_sheet", lambda images, texts: drawn.append(texts) or Figure())
    data = COCO(str(root), image_size=32, augment=False, test="secret.json", vqa_test=QUESTIONS)
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    trainer = L.Trainer(
        accelerator="cpu", logger=TensorBoardLogger(tmp_path), callbacks=[Pictures(3, 1), MetricsFile()], **quiet
    )
    trainer.test(LitStage2(Net("a red circle"), AdamWCosine()), data, verbose=False)
    (texts,) = drawn
    assert len(texts) == 3
    for lines in texts:
        assert [line.text for line in lines[:2]] == ["reference: none", "caption: a red circle"]
        assert lines[2].text.endswith(" → a red circle") and lines[2].right is None
    assert json.loads((Path(trainer.log_dir) / "metrics.json").read_text())["evaluated/test_images_share"] == 1


def test_a_test_of_nothing_that_the_model_evaluates_is_an_error(root, tmp_path):
    with pytest.raises(ValueError, match=r"test split has binding, and this model evaluates caption, vqa: set data"):
        evaluated(root, tmp_path, files=dict(binding_test="annotations/binding_test.json"))


def test_ids_that_are_words_come_back_as_they_were(root, tmp_path):
    """From GQA's questions and TextCaps' images to the files of their servers."""
    image = json.loads((root / "secret.json").read_text())["images"][0]
    words = root / "images/test/0054c91397f2fe05.jpg"
    shutil.copy(root / "images/test" / image["file_name"], words)
    shutil.copy(words, root / "images/test/n77.jpg")
    (root / "gqa.json").write_text(json.dumps({"05515938": {"imageId": "n77", "question": "What?", "types": None}}))
    (root / "words.json").write_text(json.dumps([{"image": words.name}]))
    evaluated(root, tmp_path, files=dict(test="words.json", vqa_test={"questions": "gqa.json"}))
    found = kept(tmp_path)
    assert found["submission_vqa.json"] == [{"questionId": "05515938", "prediction": "a red circle"}]
    assert found["submission_captions.json"] == [{"image_id": words.stem, "caption": "a red circle"}]


def test_an_empty_prediction_loses_nothing(root, tmp_path):
    with pytest.raises(ValueError, match=r"submission_captions\.json is not written.* 4 of 4 captions are empty"):
        evaluated(root, tmp_path, said=" ", files=dict(test="secret.json"))
    assert len(kept(tmp_path)["predictions.jsonl"]) == 4


def test_examples_and_retrieval_need_answers_and_captions(root, tmp_path):
    with pytest.raises(ValueError, match="2 examples in a prompt need solved questions, and these have no answers"):
        evaluated(root, tmp_path, files=dict(test="secret.json", vqa_test=QUESTIONS), in_context=2)
    batch = {"task": "caption", "captions": [["a dog"], []], "image_id": torch.tensor([4, 9])}
    with pytest.raises(ValueError, match="image 9 has no caption, and retrieval needs some"):
        Representation(None, 1).prepare(batch)


def test_without_java_it_ends_before_it_begins(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for asked in ({"meteor": True}, {"spice": True}, {"caption_tokenizer": "ptb"}):
        with pytest.raises(FileNotFoundError, match="no java on PATH"):
            evaluated(root, tmp_path, files=dict(test="domains.json"), **asked)
    assert not (tmp_path / "predictions.jsonl").exists()


@pytest.mark.run
@pytest.mark.skipif(shutil.which("java") is None, reason="no java")
def test_published_figures_are_of_references_as_written(root, tmp_path):
    captions = json.loads((root / "domains.json").read_text())
    for mark in captions["annotations"]:
        mark["caption"] = "A RED circle, #1!"
    (root / "written.json").write_text(json.dumps(captions))
    module = evaluated(root, tmp_path, "a red circle # 1", files=dict(test="written.json"), caption_tokenizer="ptb")
    assert {text for row in module.generation.predictions for text in row["references"]} == {"A RED circle, #1!"}
    assert module.generation.items["caption/rouge_l"].value() == pytest.approx(1)


def test_a_missing_image_is_named(root, tmp_path):
    other = shutil.copytree(root, tmp_path / "mini")
    last = json.loads((other / "secret.json").read_text())["images"][-1]
    (other / "images/test" / last["file_name"]).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"image {last['id']}, to evaluate on, is missing: .*{last['file_name']}"
    ):
        evaluated(other, tmp_path, files=dict(test="secret.json"))


@pytest.fixture
def interrupted(root, tmp_path, monkeypatch):
    """A test that was killed in its second batch of questions, with 2 batches of images and 1 of questions behind it:
    how to test again, giving the module and how many predictions were made anew."""
    files = dict(test="annotations/captions_test.json", vqa_test=QUESTIONS | ANSWERS)
    made: list[int] = []

    def generate(self, prefix_BPD, prompts, examples=(), **how):
        if made and sum(made) == 4 + 3:
            raise KeyboardInterrupt
        made.append(len(prompts))
        return [self.said] * len(prompts)

    monkeypatch.setattr(Net, "generate", generate)
    with pytest.raises(SystemExit):  # as Lightning ends an interrupted run
        evaluated(root, tmp_path / "cut", files=files, no_image=False)
    assert sum(made) == 4 + 3 and not (tmp_path / "cut/predictions.jsonl").exists()

    def again(root=root, folder=tmp_path / "cut", **other) -> tuple[LitStage2, int]:
        anew: list[int] = []
        says = lambda self, prefix, prompts, **how: anew.append(len(prompts)) or [self.said] * len(prompts)  # noqa: E731
        monkeypatch.setattr(Net, "generate", says)
        return evaluated(root, folder, files=files, no_image=False, **other), sum(anew)

    return again


def test_an_interrupted_test_goes_on_from_its_predictions(interrupted, tmp_path):
    """Only what is missing is made, and nothing differs from one go."""
    whole, count = interrupted(folder=tmp_path / "whole")
    module, anew = interrupted()
    assert anew == count - 7
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")
    assert module.trainer.callback_metrics == whole.trainer.callback_metrics
    assert not [file for file in (tmp_path / "cut").iterdir() if file.name.startswith(".test")]


def test_it_goes_on_with_smaller_batches(interrupted, tmp_path):
    _, count = interrupted(folder=tmp_path / "whole")
    _, anew = interrupted(batch=1)
    assert anew == count - 7 and kept(tmp_path / "cut") == kept(tmp_path / "whole")


def test_it_begins_again_with_other_answers_or_another_prompt(interrupted, root, tmp_path):
    other = shutil.copytree(root, tmp_path / "mini")
    answers = json.loads((other / ANSWERS["annotations"]).read_text())
    for mark in answers["annotations"]:
        mark["answers"] = [{"answer": "zebra"}] * 10
    (other / ANSWERS["annotations"]).write_text(json.dumps(answers))
    module, anew = interrupted(question="{} ?")
    assert anew == len(module.generation.predictions)
    module, anew = interrupted(root=other)
    assert anew == len(module.generation.predictions)
    assert {answer for row in module.generation.predictions for answer in row.get("answers", ())} == {"zebra"}


def test_another_test_leaves_nothing_of_an_earlier_one(root, tmp_path):
    evaluated(root, tmp_path, files=dict(test="annotations/captions_test.json", vqa_test=QUESTIONS | ANSWERS))
    assert {"intervals.json", "submission_captions.json"} <= kept(tmp_path).keys()
    evaluated(root, tmp_path, files=dict(vqa_test=QUESTIONS | {"images": "annotations/captions_test.json"}))
    assert kept(tmp_path).keys() == {"predictions.jsonl", "decoding.json", "submission_vqa.json"}
    assert not (tmp_path / "items.npz").exists()
