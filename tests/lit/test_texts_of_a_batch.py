"""A text that no network can read, or not all of, is told with its image or question."""

from types import SimpleNamespace

import pytest
import torch

from lit_blip2.lit.evaluators.evaluation import Evaluation
from lit_blip2.lit.evaluators.representation import Representation
from lit_blip2.lit.evaluators.tally import Tally
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.lit.stage2 import LitStage2
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.tokenizer import BertTokenizer
from lit_blip2.objectives.lm import LM
from tests.lit.stub import Stage2Stub


def test_the_images_of_an_empty_text_are_named():
    tokenizer = BertTokenizer("lit_blip2/mini/weights/bert", 62, 8)
    evaluator = SimpleNamespace(prepare=lambda batch: tokenizer(batch["caption"]))
    batch = {"task": "train", "step": 7, "image_id": torch.tensor([12, 0]), "caption": ["a star", " "]}
    with pytest.raises(ValueError, match=r"step 7: texts \[1\] .* are empty.*; the images .* in its order, \[12, 0\]"):
        LitBLIP2.on_before_batch_transfer(SimpleNamespace(evaluators=[evaluator]), batch, 0)


LONG = "a red star " * 40


def system(**language) -> LitStage2:
    model = LanguageModel("lit_blip2/mini/weights/opt", dtype="float32", **language)
    model.load()
    return LitStage2(Stage2Stub(model, LM()), AdamWCosine(), vqa_max_new_tokens=1, caption_max_new_tokens=1)


def evaluate(module: LitStage2, batch: dict) -> None:
    batch = {"row": torch.arange(2), "features": torch.zeros(2, 1, 128), "image_id": torch.tensor([12, 7])} | batch
    module.tally = Tally()
    module.generation.begin(Evaluation("validate"))
    module.validation_step(module.on_before_batch_transfer(batch, 0), 0)


def test_a_question_that_is_cut_is_named_in_evaluation():
    """By the id of its file, where that is no number."""
    module, answers = system(max_prompt_tokens=20), {"question_type": ["x", "x"], "answers": [["a"], ["a"]]}
    batch = {"task": "vqa", "question": ["red ?", LONG], "question_id": [3, 5]} | answers
    for more, name in (({}, "question 5"), ({"written_id": ["q-a", "q-b"]}, "question q-b")):
        module.net.language.plain.cuts.clear()
        with pytest.warns(
            UserWarning, match=f"a prompt of .* was cut to its last 20 .* for {name}, begins 'Question: a"
        ):
            evaluate(module, batch | more)


def test_a_caption_that_is_cut_is_named_in_evaluation():
    module = system(max_target_tokens=20)
    with pytest.warns(UserWarning, match="a target of .* was cut to its first 20 .* for image 12, begins 'a red"):
        evaluate(module, {"task": "caption", "captions": [[LONG, "a star"], ["a star"]]})


def test_each_of_an_images_captions_that_is_cut_has_its_name():
    tokenizer = BertTokenizer("lit_blip2/mini/weights/bert", 62, 8)
    evaluator = Representation(SimpleNamespace(tokenizer=tokenizer), rerank=1)
    batch = {"task": "caption", "image_id": torch.tensor([12, 7]), "captions": [["a star"] * 2, ["a star", LONG]]}
    with pytest.warns(UserWarning, match="a text of the Q-Former of .* for image 7, begins"):
        evaluator.prepare(batch)
