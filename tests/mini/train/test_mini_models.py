import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import OPTForCausalLM, T5ForConditionalGeneration

import lit_blip2.mini
from lit_blip2.mini.train import language as train_lm
from lit_blip2.mini.train import lm_check
from lit_blip2.mini.train import opt as train_opt
from lit_blip2.mini.train import t5 as train_t5
from lit_blip2.mini.train import vit as train_vit
from lit_blip2.mini.vocabulary import bert_tokenizer, opt_tokenizer

WEIGHTS = Path(lit_blip2.mini.__file__).parent / "weights"


def test_opt_tokenizer_puts_the_end_mark_in_front():
    tokenizer = opt_tokenizer()
    ids = tokenizer("Question: what color is the circle? Answer:").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        *("</s>", "Question:", "what", "color", "is", "the", "circle", "?", "Answer:")
    ]
    assert tokenizer.decode(ids[2:]) == "what color is the circle ? Answer:"
    assert tokenizer("  red\n circle").input_ids == tokenizer("red circle").input_ids
    assert tokenizer("zebra").input_ids[1] == tokenizer.unk_token_id
    assert tokenizer.bos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id


def test_bert_tokenizer_has_berts_form():
    tokenizer = bert_tokenizer()
    ids = tokenizer("A red circle, a Ring").input_ids
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words == ["[CLS]", "a", "red", "circle", ",", "a", "ring", "[SEP]"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.decode(tokenizer("[DEC] red").input_ids, skip_special_tokens=True) == "red"


def test_collate_pads_with_no_weight():
    ids = {"<pad>": 0, "a": 1, "b": 2}
    inputs, targets, weights = train_opt.collate([[("a b", 0.5), ("a", 1.0)], [("b", 1.0)]], ids, 0)
    assert inputs["input_ids"].tolist() == [[1, 2, 1], [2, 0, 0]]
    assert targets.tolist() == [[2, 1], [0, 0]]  # the first token is never a target
    assert weights.tolist() == [[0.5, 1.0], [0.0, 0.0]]


def test_weighted_loss_by_hand():
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [9.0, 9.0]]])
    targets, weights = torch.tensor([[1, 0]]), torch.tensor([[1.0, 3.0]])
    expected = 1 * -math.log(3 / 4) + 3 * math.log(2)  # the last logits predict nothing
    assert train_lm.weighted_loss(logits, targets, weights).item() == pytest.approx(expected)


def test_greedy_answers_do_not_depend_on_the_batch():
    tokenizer = opt_tokenizer()
    torch.manual_seed(0)
    model = train_opt.fresh_opt(tokenizer).eval()
    prompts = ["</s> red", "</s> a large red circle at top </s> red", "</s> a ring"]
    together = train_opt.greedy_answers(model, tokenizer, prompts)
    assert together == [train_opt.greedy_answers(model, tokenizer, [p])[0] for p in prompts]


def test_greedy_answers_stop_at_the_end_mark():
    tokenizer = opt_tokenizer()
    follow = {"Answer:": "top", "top": "left", "left": "</s>", "</s>": "red"}
    table = torch.zeros(len(tokenizer), len(tokenizer))
    for a, b in follow.items():
        table[tokenizer.convert_tokens_to_ids(a), tokenizer.convert_tokens_to_ids(b)] = 1

    def model(input_ids):
        return SimpleNamespace(logits=table[input_ids])

    assert train_opt.greedy_answers(model, tokenizer, ["Question: Answer:"]) == ["top left"]


def test_text_qa_counts_exact_matches_per_type():
    items = [("red", "", "top left", kind) for kind in lm_check.QUESTION_TYPES]
    items.append(("red", "", "left", "colour"))

    def answer(prompts):
        assert prompts == ["Question:  Answer: red"] * 8
        return ["top left"] * 8

    scores = lm_check.text_qa(answer, items, "{prompt} {description}")
    assert scores["colour"] == 0.5 and scores["mean"] == pytest.approx(6.5 / 7, abs=1e-4)
    assert lm_check.count_per_type(items)["colour"] == 2


@pytest.fixture
def brief(monkeypatch):
    """Few documents a step and few questions at the end."""
    monkeypatch.setattr(train_lm, "BATCH", 4)
    monkeypatch.setattr(train_lm, "CHECK_PAIRS", 20)


@pytest.mark.run
def test_opt_training_leaves_a_folder_that_loads(tmp_path, brief):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    figures = train_opt.train_opt(tmp_path, seed=1, steps=2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == model.config.vocab_size
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert figures["steps"] == 2 and 0 <= figures["no_description"]["mean"] <= 1


@pytest.mark.run
def test_vit_training_leaves_timm_weights(tmp_path, monkeypatch):
    import timm

    monkeypatch.setattr(train_vit, "BATCH", 4)
    monkeypatch.setattr(train_vit, "CHECK_PAIRS", 4)
    figures = train_vit.train_vit(tmp_path, seed=1, steps=2)
    vit = timm.create_model(figures["timm_name"], **figures["timm_kwargs"])
    weights = train_vit.load_file(tmp_path / "vit.safetensors")
    assert {v.dtype for v in weights.values()} == {torch.float16}
    vit.load_state_dict(weights)
    assert vit.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 65, 128)
    assert json.loads((tmp_path / "vit_figures.json").read_text())["n"] == 4


@pytest.mark.run
@pytest.mark.parametrize(
    ("name", "recipe", "model"),
    [("opt", train_opt.RECIPE, OPTForCausalLM), ("t5", train_t5.RECIPE, T5ForConditionalGeneration)],
)
def test_shipped_language_model_has_its_figures(name, recipe, model):
    model = model.from_pretrained(WEIGHTS / name, dtype=torch.float32).eval()
    figures = json.loads((WEIGHTS / name / "figures.json").read_text())
    items = lm_check.check_items(figures["seed"], 80)  # the first third of those that the figures are of
    for name, form in recipe.forms.items():
        found = lm_check.text_qa(partial(recipe.answers, model, recipe.tokenizer()), items, form)
        assert found["mean"] == pytest.approx(figures[name]["mean"], abs=0.03)


def test_shipped_folders_load():
    import timm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "opt")
    assert tokenizer.get_vocab() == opt_tokenizer().get_vocab()
    assert AutoTokenizer.from_pretrained(WEIGHTS / "bert").get_vocab() == bert_tokenizer().get_vocab()
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS / "opt", dtype=torch.float32).eval()
    prompt = "a small red circle at top left and a large blue ring at right </s> Question: {} Answer:"
    questions = ["what color is the ring ?", "what shape is the red object ?", "where is the red circle ?"]
    given = train_opt.greedy_answers(model, tokenizer, [prompt.format(q) for q in questions])
    assert given == ["blue", "circle", "top left"]
    vit = timm.create_model(train_vit.VIT_NAME, **train_vit.VIT_KWARGS)
    vit.load_state_dict(train_vit.load_file(WEIGHTS / "vit.safetensors"))
