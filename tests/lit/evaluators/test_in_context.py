"""Examples in the prompt, inside a real test run: what the language model is given."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from lit_blip2.data.coco import COCO
from lit_blip2.data.images import load_image
from lit_blip2.data.transforms import eval_view
from lit_blip2.lit import LitStage2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.mini.write import write_world
from tests.lit.stub import Stage2Stub

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(Stage2Stub):
    """Its language model notes what it is asked."""

    def __init__(self):
        objective = SimpleNamespace(text=lambda *caption: None)
        super().__init__(SimpleNamespace(generate=self.generate), objective)
        self.asked = []

    def generate(self, prefix_BPD, prompts, examples=(), **how):
        self.asked.append((prefix_BPD, prompts, examples))
        return ["yes"] * len(prompts)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("context") / "mini"
    write_world(root, train=2, val=4, test=2, workers=1)
    return root


def asked(root, command: str, in_context: int) -> tuple[list, list[dict]]:
    """What was asked, and the predictions."""
    data = COCO(
        str(root), image_size=32, augment=False, eval_batch_size=100,
        **{f"vqa_{split}": {"questions": f"annotations/questions_{split}.json",
                            "annotations": f"annotations/answers_{split}.json"} for split in ("val", "test")},
        val="annotations/captions_val.json", test="annotations/captions_test.json",
    )  # fmt: skip
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False)
    module = LitStage2(Net(), AdamWCosine(), in_context=in_context)
    module.generation._caption = lambda batch: []
    getattr(L.Trainer(accelerator="cpu", default_root_dir=root, **quiet), command)(module, data, verbose=False)
    return module.net.asked, module.generation.predictions


def seen(root, split: str, image_id: int) -> torch.Tensor:
    pixels = eval_view(load_image(root / "images" / split / f"{image_id:012d}.png"), 32)
    return Net().vision(pixels[None])[0]


def rows(root, split: str) -> dict[int, dict]:
    """question id -> question, with its answer."""
    read = lambda kind, key: json.loads((root / f"annotations/{kind}_{split}.json").read_text())[key]  # noqa: E731
    answers = {row["question_id"]: row["multiple_choice_answer"] for row in read("answers", "annotations")}
    return {row["question_id"]: row | {"answer": answers[row["question_id"]]} for row in read("questions", "questions")}


def test_each_example_has_its_own_image_question_and_answer(root):
    """Of validation images; the answers without an image come after the same examples without theirs."""
    ((prefix_BPD, prompts, examples), (nothing, blind_prompts, unseen)), predictions = asked(root, "test", 2)
    solved, questions = rows(root, "val"), rows(root, "test")
    assert len(examples) == len(unseen) == 2 and nothing is None and blind_prompts == prompts
    for place, row in enumerate(predictions):
        own = questions[row["question_id"]]
        assert prompts[place] == f"Question: {own['question']} Answer:"
        assert torch.equal(prefix_BPD[place], seen(root, "test", own["image_id"]))
        assert len(row["examples"]) == 2
        for example, blind, question_id in zip(examples, unseen, row["examples"]):
            shown = solved[question_id]
            assert example.prompts[place] == f"Question: {shown['question']} Answer:"
            assert example.answers[place] == shown["answer"]
            assert torch.equal(example.prefix_BPD[place], seen(root, "val", shown["image_id"]))
            assert blind == example._replace(prefix_BPD=None)


def test_zero_shot_and_validation_have_none(root):
    for command, in_context in (("test", 0), ("validate", 2)):
        questions, predictions = asked(root, command, in_context)
        assert questions and not any(len(examples) for _, _, examples in questions)
        assert not any("examples" in row for row in predictions)


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="in_context=-1 must not be negative"):
        LitStage2(Net(), AdamWCosine(), in_context=-1)


@pytest.mark.parametrize("part", ["vqa", "caption"])
@pytest.mark.parametrize("name", ["max_new_tokens", "num_beams"])
def test_lengths_and_beams_of_0_are_refused(part, name):
    with pytest.raises(ValueError, match=rf"^model\.{part}_{name}=0: each must be at least 1; 1 beam takes"):
        LitStage2(Net(), AdamWCosine(), **{f"{part}_{name}": 0})
