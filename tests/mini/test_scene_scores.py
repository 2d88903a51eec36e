"""SceneScores inside a real test run, with a language model that can read but not see."""

import json
from collections.abc import Iterable

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lit_blip2.data.coco import COCO
from lit_blip2.lit import LitStage1, LitStage2
from lit_blip2.lit.callbacks import MetricsFile
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.mini.grammar import UNSAID
from lit_blip2.mini.scene_accuracy import SceneAccuracy
from lit_blip2.mini.scene_files import load_scenes
from lit_blip2.mini.scene_scores import (
    Reading,
    SceneScores,
    accuracy_by_objects,
    description,
    reading_items,
)
from lit_blip2.mini.scores import read_caption, score_caption
from lit_blip2.mini.world import Object, Scene
from lit_blip2.mini.write import write_world
from lit_blip2.objectives.lm import LM
from tests.lit.stub import Stage2Stub

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = 6


class Pairs(list):
    """(prompt, target) in place of tokens."""

    def to(self, device):
        return self


class Reader(nn.Module):
    """Says the given captions in turn, and answers rightly after a full description. What it says with an image before
    it is given too, in the questions' order; without that it sees nothing. A right answer's first word costs it 2 nats,
    what follows (its end mark at least) half a nat each, a wrong one's 9 each."""

    encoder_decoder = False

    def __init__(
        self,
        captions: list[str],
        answers: dict[tuple[frozenset, str], str],
        seen: Iterable[str] = (),
        frozen: bool = True,
    ):
        super().__init__()
        self.captions, self.answers, self.seen, self.frozen = iter(captions), answers, iter(seen), frozen

    def tokenise(self, prompts, targets, max_text_tokens=None, learn_begin=False):
        return Pairs(zip(prompts, targets))

    def loss(self, prefix_BPD, text):
        if prefix_BPD is not None:
            return torch.ones(1), torch.zeros(1, dtype=torch.long)
        costs = [
            [2.0, *[0.5] * len(target.split())] if self.read(prompt) == target else [9.0] * 2 for prompt, target in text
        ]
        rows = [row for row, cost in enumerate(costs) for _ in cost]
        return torch.tensor([each for cost in costs for each in cost]), torch.tensor(rows)

    def generate(self, prefix_BPD, prompts, **how):
        if prefix_BPD is None:
            return [self.read(prompt) for prompt in prompts]
        return [next(self.captions) if prompt == "" else next(self.seen, "unseen") for prompt in prompts]

    def read(self, prompt: str) -> str:
        told, question = prompt.removesuffix(" Answer:").split("Question: ")
        return self.answers[frozenset(read_caption(told).mentions), question] if told else "unread"


def stage2(language: Reader) -> LitStage2:
    return LitStage2(Stage2Stub(language, LM()), AdamWCosine())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "mini"
    write_world(root, train=2, val=2, test=IMAGES, workers=1)
    return root


def data(root, image_size: int = 8) -> COCO:
    files = {}
    for split in ("val", "test"):
        files[split] = f"annotations/captions_{split}.json"
        answers = f"annotations/answers_{split}.json"
        files[f"vqa_{split}"] = {"questions": f"annotations/questions_{split}.json", "annotations": answers}
    return COCO(str(root), **files, image_size=image_size, augment=False, eval_batch_size=4)


def trainer(folder, *callbacks) -> L.Trainer:
    logger = TensorBoardLogger(folder, default_hp_metric=False)
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    return L.Trainer(accelerator="cpu", logger=logger, callbacks=list(callbacks), **quiet)


def answers_by_scene(root, split: str = "test") -> dict[tuple[frozenset, str], str]:
    scenes = load_scenes(root / f"annotations/scenes_{split}.json").scenes
    asked = json.loads((root / f"annotations/questions_{split}.json").read_text())["questions"]
    marks = json.loads((root / f"annotations/answers_{split}.json").read_text())["annotations"]
    truth = {mark["question_id"]: mark["multiple_choice_answer"] for mark in marks}
    objects = {i: frozenset(o[:4] for o in scene.objects) for i, scene in scenes.items()}
    return {(objects[row["image_id"]], row["question"]): truth[row["question_id"]] for row in asked}


def test_reading_is_told_by_type_of_question_too():
    rows = [(1, 1, "red", "red", "colour"), (1, 2, "top", "left", "place"), (2, 3, "left", "left", "place")]
    readings = [Reading(image, n, said, [true] * 10, kind, 0.5, 2) for image, n, said, true, kind in rows]
    values = {name: each.value() for name, each in reading_items(readings).items()}
    by_type = {"llm/text_type_colour": 1.0, "llm/text_type_place": 0.5}
    assert values == by_type | {"llm/text_qa": 0.75, "llm/text_loss": 0.25}
    assert reading_items([]) == {}


def test_figures_of_a_test_run(root, tmp_path):
    """One caption of six is right: the first image's own. Reading is perfect, seeing and guessing are not."""
    scenes = load_scenes(root / "annotations/scenes_test.json").scenes
    order = json.loads((root / "annotations/captions_test.json").read_text())["images"]
    captions = [description(scenes[order[0]["id"]]), *["nonsense"] * (IMAGES - 1)]
    module = stage2(Reader(captions, answers_by_scene(root)))
    run = trainer(tmp_path, SceneScores(), MetricsFile())
    run.test(module, data(root), verbose=False)
    metrics = json.loads((tmp_path / "lightning_logs/version_0/metrics.json").read_text())
    for name in ("precision", "recall", "exact"):
        assert metrics[f"caption/{name}"] == pytest.approx(1 / IMAGES) == run.callback_metrics[f"caption/{name}"].item()
    assert metrics["llm/text_qa"] == 1.0
    marks = json.loads((root / "annotations/answers_test.json").read_text())["annotations"]
    words = sum(
        len(mark["multiple_choice_answer"].split()) for mark in marks
    )  # each but the first costs 1/2, as the end
    by_hand = (2 * len(marks) + 0.5 * words) / (words + len(marks))
    assert metrics["llm/text_loss"] == pytest.approx(by_hand, rel=1e-5)
    assert metrics["vqa/no_image"] == metrics["vqa/accuracy"] == 0.0
    intervals = json.loads((tmp_path / "lightning_logs/version_0/intervals.json").read_text())
    about = {"evaluated/test_images": IMAGES, "evaluated/test_questions": len(marks)}
    about |= {f"{name}_share": 1 for name in about} | {"evaluated/test_step": 0}
    assert about.items() <= metrics.items() and intervals.keys() == metrics.keys() - {"loss/lm", *about}


def test_questions_without_answers_have_no_figures(root, tmp_path):
    """As a server's; the test goes on and writes what was said."""
    module, files = stage2(Reader([], {})), data(root)
    files.captions["test"], files.vqa["test"] = None, {"questions": "annotations/questions_test.json"}
    files.vqa["test"]["images"] = "annotations/captions_test.json"
    trainer(tmp_path, SceneScores()).test(module, files, verbose=False)
    assert (tmp_path / "lightning_logs/version_0/submission_vqa.json").exists()


def test_accuracy_by_objects_by_hand():
    scores = [(1, 1.0), (3, 0.3), (1, 0.0), (3, 0.9), (1, 0.5), (4, 0.0)]
    items = accuracy_by_objects([(7, number, *each) for number, each in enumerate(scores)])
    wanted = {"vqa/objects_1": 0.5, "vqa/objects_3": 0.6, "vqa/objects_4": 0.0}
    assert {name: each.value() for name, each in items.items()} == pytest.approx(wanted)
    assert items["vqa/objects_3"].ids.tolist() == [1, 3] and accuracy_by_objects([]) == {}


def test_captions_means_count_every_caption():
    """One perfect and one unreadable caption: halves, the unreadable one is not dropped."""
    scene = Scene((Object(0, 0, 0, 0, 0, 0),), 0)
    metric = SceneAccuracy()
    metric.update(["nonsense", description(scene)], [scene, scene], [7, 3])
    assert metric.compute() == {"caption/precision": 0.5, "caption/recall": 0.5, "caption/exact": 0.5}
    assert metric.items["caption/recall"].images.tolist() == [7, 3]
    with pytest.raises(ValueError, match="unequal numbers: 1 captions, 2 scenes"):
        metric.update(["nonsense"], [scene, scene])


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_run_scores_questions_by_the_objects_of_their_scene(split, root, tmp_path):
    """Of two objects all questions are answered rightly, of others none, but for one of three objects."""
    files = dict(questions=f"annotations/questions_{split}.json", annotations=f"annotations/answers_{split}.json")
    scenes = load_scenes(root / f"annotations/scenes_{split}.json").scenes
    asked = json.loads((root / files["questions"]).read_text())["questions"]
    marks = json.loads((root / files["annotations"]).read_text())["annotations"]
    truth = {mark["question_id"]: mark["multiple_choice_answer"] for mark in marks}
    objects = [len(scenes[row["image_id"]].objects) for row in asked]
    right = [count == 2 or (count == 3 and place == objects.index(3)) for place, count in enumerate(objects)]
    seen = [truth[row["question_id"]] if yes else "unseen" for row, yes in zip(asked, right)]
    module = stage2(Reader(["a red ring"] * IMAGES, answers_by_scene(root), seen))
    run = trainer(tmp_path, SceneScores())
    given = {split: f"annotations/captions_{split}.json", f"vqa_{split}": files}
    loaded = COCO(str(root), **given, image_size=8, augment=False, eval_batch_size=4)
    getattr(run, {"val": "validate", "test": "test"}[split])(module, loaded, verbose=False)
    found = {name: value.item() for name, value in run.callback_metrics.items() if "objects" in name}
    wanted = {f"vqa/objects_{count}": float(count == 2) for count in objects}
    if 3 in objects:
        wanted["vqa/objects_3"] = 1 / objects.count(3)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("frozen", [True, False])
def test_validation_reads_where_the_language_model_can_forget(root, tmp_path, frozen):
    """One answer is wrong: it costs the accuracy and the loss."""
    answers = answers_by_scene(root, "val")
    known = answers | {next(iter(answers)): "wrong"}
    module = stage2(Reader(["a red ring"] * 2, known, frozen=frozen))
    run = trainer(tmp_path, SceneScores())
    run.validate(module, data(root), verbose=False)
    assert ("llm/text_qa" in run.callback_metrics) == ("llm/text_loss" in run.callback_metrics) == (not frozen)
    if not frozen:
        words = [len(answer.split()) for answer in list(answers.values())[1:]]
        by_hand = (18 + sum(2 + 0.5 * n for n in words)) / (2 + sum(n + 1 for n in words))
        assert run.callback_metrics["llm/text_loss"].item() == pytest.approx(by_hand, rel=1e-5)
        assert 0 < run.callback_metrics["llm/text_qa"] < 1


def test_a_description_says_all(root):
    for scene in load_scenes(root / "annotations/scenes_test.json").scenes.values():
        said = read_caption(description(scene))
        assert score_caption(description(scene), scene) == (1.0, 1.0, 1.0)
        assert not any(UNSAID in mention for mention in said.mentions)


def test_without_questions_there_is_no_reading(root, tmp_path):
    module = stage2(Reader(["a red ring"] * IMAGES, {}))
    captions_only = data(root)
    captions_only.vqa = {"val": None, "test": None}
    run = trainer(tmp_path, SceneScores())
    run.test(module, captions_only, verbose=False)
    assert "caption/exact" in run.callback_metrics and "llm/text_qa" not in run.callback_metrics
    assert not [name for name in run.callback_metrics if "objects" in name]


def test_what_does_not_belong_together_is_named(root, tmp_path, make_stage1):
    module = stage2(Reader(["a red ring"] * IMAGES, {}))
    with pytest.raises(ValueError, match=r"image .* has no scene in .*leave SceneScores out"):
        trainer(tmp_path, SceneScores(scenes_test="annotations/scenes_val.json")).test(module, data(root))
    with pytest.raises(FileNotFoundError, match=r"scenes_nowhere\.json is missing.*--trainer\.callbacks=null"):
        trainer(tmp_path, SceneScores(scenes_test="annotations/scenes_nowhere.json")).test(module, data(root))
    with pytest.raises(ValueError, match="LitStage1 has none"):
        trainer(tmp_path, SceneScores()).test(LitStage1(make_stage1("itc"), AdamWCosine()), data(root, 32))
