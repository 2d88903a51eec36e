"""GQA, OK-VQA and POPE from files as their authors publish them to metrics.json, on one process and on two."""

import json
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lit_blip2.data.coco import COCO
from lit_blip2.lit import LitStage2
from lit_blip2.lit.callbacks import MetricsFile
from lit_blip2.lit.optim import AdamWCosine
from tests.lit.stub import Stage2Stub

pytestmark = pytest.mark.filterwarnings("ignore")

SAID = {"sky dark": "yes", "left of": "the cup", "color": "Red", "sport": "skateboarding", "breed": "a pug",
        "dog": "no"}  # fmt: skip
GQA = {
    "20968379": {
        "imageId": "n288870", "question": "Is the sky dark?", "answer": "yes", "isBalanced": True, "groups": {},
        "types": {"detailed": "weatherVerifyC", "semantic": "global", "structural": "verify"}, "entailed": [],
        "fullAnswer": "Yes, the sky is dark.", "semantic": [], "semanticStr": "select: scene->verify weather: dark",
        "equivalent": ["20968379"], "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
    },
    "201968385": {
        "imageId": "n288870", "question": "What is left of the shelf?", "answer": "bottle", "isBalanced": True,
        "types": {"detailed": "relO", "semantic": "rel", "structural": "query"}, "groups": {"global": "object"},
    },
    "202225914": {
        "imageId": "2405722", "question": "What color is the ball?", "answer": "red", "isBalanced": True,
        "types": {"detailed": "directOf", "semantic": "attr", "structural": "query"}, "groups": {"global": "color"},
    },
}  # fmt: skip
OKVQA = [(2971475, 297147, "What sport can you use this for?", ["race", "motocross"] + ["skateboard"] * 8, "four"),
         (3396761, 339761, "What breed is it?", ["pug"] * 2 + ["dog"] * 8, "eight"),
         (3396762, 339761, "What dog is it?", ["beagle"] * 10, "eight")]  # fmt: skip


def write(file: Path, content) -> str:
    file.write_text(json.dumps(content))
    return str(file)


def pictures(folder: Path, names) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def gqa(root: Path, rows: int) -> dict:
    pictures(root / "images", [f"{row['imageId']}.jpg" for row in GQA.values()])
    kept = dict(list(GQA.items())[:rows])
    return dict(images="images", vqa_test={"questions": write(root / "testdev_balanced_questions.json", kept)})


def okvqa(root: Path, rows: int) -> dict:
    about = {"info": {"version": "1.0"}, "data_type": "mscoco", "license": {}, "data_subtype": "val2014"}
    asked = [{"image_id": image, "question": text, "question_id": name} for name, image, text, *_ in OKVQA[:rows]]
    marks = [
        {"image_id": image, "question_id": name, "question_type": kind, "answer_type": "other", "confidence": 3,
         "answers": [{"answer_id": k, "answer": word, "raw_answer": word + "s", "answer_confidence": "yes"}
                     for k, word in enumerate(words, 1)]}
        for name, image, _, words, kind in OKVQA[:rows]
    ]  # fmt: skip
    pictures(root / "val2014", [f"COCO_val2014_{image:012d}.jpg" for _, image, *_ in OKVQA])
    names = {"four": "Sports and Recreation", "eight": "Plants and Animals"}
    questions = about | {"task_type": "Open-Ended", "questions": asked}
    files = {"questions": write(root / "OpenEnded_mscoco_val2014_questions.json", questions)}
    marks = about | {"annotations": marks, "question_types": names}
    return dict(
        images="val2014", vqa_test=files | {"annotations": write(root / "mscoco_val2014_annotations.json", marks)}
    )


def pope(root: Path, rows: int) -> dict:
    lines = [
        {
            "question_id": k,
            "image": f"COCO_val2014_{k // 2 + 5:012d}.jpg",
            "text": f"Is there a {word} here?",
            "label": label,
        }
        for k, (word, label) in enumerate([("dog", "no"), ("sky dark", "no"), ("dog", "yes")], 1)
    ]
    pictures(root / "val2014", [row["image"] for row in lines])
    (root / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in lines[:rows]))
    return dict(images="val2014", vqa_test={"questions": str(root / "coco_pope_random.json")})


class Net(Stage2Stub):
    """Answers by SAID."""

    def __init__(self):
        objective = SimpleNamespace(text=lambda *caption: None, weight=1.0)
        super().__init__(SimpleNamespace(generate=self.generate), objective)

    def generate(self, prefix_BPD, prompts, examples=(), **how):
        return [next(answer for words, answer in SAID.items() if words in prompt) for prompt in prompts]


def outcome_of(root: Path, folder: Path, files: dict, devices: int, **how) -> tuple[dict, list[str], list]:
    """Metrics, lines of predictions and submission."""
    folder.mkdir()
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False)
    ranks = dict(devices=devices, strategy="ddp_fork" if devices > 1 else "auto", use_distributed_sampler=False)
    trainer = L.Trainer(accelerator="cpu", default_root_dir=folder, callbacks=[MetricsFile()], **quiet, **ranks)
    module = LitStage2(Net(), AdamWCosine(), no_image=False, **how)
    module.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))  # DDP wants one
    trainer.test(module, COCO(str(root), image_size=32, augment=False, eval_batch_size=2, **files))
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return (
        json.loads((folder / "metrics.json").read_text()),
        lines,
        json.loads((folder / "submission_vqa.json").read_text()),
    )


# OK-VQA: skateboarding counts by its lemma, for 8 of 10; a pug as pug, for 2 of 10; POPE: no, yes and no are said.
EXPECTED = {
    "gqa": {"vqa/accuracy": 2 / 3, "vqa/mean_over_types": 0.75, "vqa/type_verify": 1, "vqa/type_query": 0.5},
    "okvqa": {"vqa/accuracy": 1.6 / 3, "vqa/type_four": 1, "vqa/type_eight": 0.3},
    "pope": {"vqa/accuracy": 1 / 3, "vqa/yes_share": 1 / 3, "vqa/yes_recall": 0, "vqa/yes_precision": 0},
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("make", [gqa, okvqa, pope], ids=lambda make: make.__name__)
def test_two_ranks_give_the_metrics_of_one(tmp_path, make, rows):
    files, how = make(tmp_path, rows), {"lemmatise": make is okvqa}
    one, two = (outcome_of(tmp_path, tmp_path / str(devices), files, devices, **how) for devices in (1, 2))
    assert one[0] == pytest.approx(two[0]) and one[1:] == two[1:]
    assert (one[0]["evaluated/test_questions"], len(one[1])) == (rows, rows)
    expected = EXPECTED[make.__name__] if rows == 3 else {"vqa/accuracy": 1}
    assert {name: one[0][name] for name in expected} == pytest.approx(expected)
    if make is gqa:
        said = [(row["questionId"], row["prediction"]) for row in one[2]]
        assert sorted(said) == sorted(zip(GQA, ["yes", "the cup", "Red"][:rows]))
