import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lit_blip2.mini
from lit_blip2.mini import train_lm, train_vit
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
    tokens, weights = train_lm.collate([[("a b", 0.5), ("a", 1.0)], [("b", 1.0)]], ids, 0)
    assert tokens.tolist() == [[1, 2, 1], [2, 0, 0]]
    assert weights.tolist() == [[0.5, 0.5, 1.0], [1.0, 0.0, 0.0]]


def test_weighted_loss_by_hand():
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [9.0, 9.0]]])
    tokens, weights = torch.tensor([[0, 1, 0]]), torch.tensor([[5.0, 1.0, 3.0]])
    expected = 1 * -math.log(3 / 4) + 3 * math.log(2)  # the first token is never a target
    assert train_lm.weighted_loss(logits, tokens, weights).item() == pytest.approx(expected)


def test_greedy_answers_do_not_depend_on_the_batch():
    tokenizer = opt_tokenizer()
    torch.manual_seed(0)
    model = train_lm.OPTForCausalLM(train_lm.opt_config(tokenizer)).eval()
    prompts = ["</s> red", "</s> a large red circle at top </s> red", "</s> a ring"]
    together = train_lm.greedy_answers(model, tokenizer, prompts)
    assert together == [train_lm.greedy_answers(model, tokenizer, [p])[0] for p in prompts]


def test_greedy_answers_stop_at_the_end_mark():
    tokenizer = opt_tokenizer()
    follow = {"Answer:": "top", "top": "left", "left": "</s>", "</s>": "red"}
    table = torch.zeros(len(tokenizer), len(tokenizer))
    for a, b in follow.items():
        table[tokenizer.convert_tokens_to_ids(a), tokenizer.convert_tokens_to_ids(b)] = 1

    def model(input_ids):
        return SimpleNamespace(logits=table[input_ids])

    assert train_lm.greedy_answers(model, tokenizer, ["Question: Answer:"]) == ["top left"]
    items = [("", "", "top left", kind) for kind in train_lm.QUESTION_TYPES]
    items.append(("", "", "left", "colour"))
    scores = train_lm.text_qa(model, tokenizer, items, "{prompt}")
    assert scores["colour"] == 0.5 and scores["mean"] == pytest.approx(6.5 / 7, abs=1e-4)


def test_lm_training_leaves_a_folder_that_loads(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(train_lm, "BATCH", 4)
    monkeypatch.setattr(train_lm, "CHECK_PAIRS", 20)
    figures = train_lm.train_lm(tmp_path, seed=1, steps=2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == model.config.vocab_size
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert figures["steps"] == 2 and 0 <= figures["no_description"]["mean"] <= 1


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


@pytest.mark.slow
def test_shipped_language_model_has_its_figures():
    model = train_lm.OPTForCausalLM.from_pretrained(WEIGHTS / "opt", dtype=torch.float32).eval()
    figures = json.loads((WEIGHTS / "opt" / "figures.json").read_text())
    items = train_lm.check_items(figures["seed"], train_lm.CHECK_PAIRS)
    for name, form in train_lm.FORMS.items():
        found = train_lm.text_qa(model, opt_tokenizer(), items, form)
        assert found["mean"] == pytest.approx(figures[name]["mean"], abs=0.005)


def test_shipped_folders_load():
    import timm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "opt")
    assert tokenizer.get_vocab() == opt_tokenizer().get_vocab()
    assert AutoTokenizer.from_pretrained(WEIGHTS / "bert").get_vocab() == bert_tokenizer().get_vocab()
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS / "opt", dtype=torch.float32).eval()
    prompt = "a small red circle at top left and a large blue ring at right </s> Question: {} Answer:"
    questions = ["what color is the ring ?", "what shape is the red object ?", "where is the red circle ?"]
    given = train_lm.greedy_answers(model, tokenizer, [prompt.format(q) for q in questions])
    assert given == ["blue", "circle", "top left"]
    vit = timm.create_model(train_vit.VIT_NAME, **train_vit.VIT_KWARGS)
    vit.load_state_dict(train_vit.load_file(WEIGHTS / "vit.safetensors"))
