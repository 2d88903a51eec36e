"""Training the prompter: its captions, its two terms by hand, and that it learns.

Legend: B captions, Q soft prompt positions, D language model width, V words.
"""

import pytest
import torch

from lit_blip2.mini.styles import without_boilerplate
from lit_blip2.mini.train import prompter as train
from lit_blip2.mini.train.on_demand import SHIPPED_OPT
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.prompter import read_prompter


def test_captions_stand_between_boilerplate_and_are_the_same_each_time():
    texts = train.captions(0, "text", 5, 4)
    assert len(texts) == 8 and all(without_boilerplate(text) != text for text in texts)
    assert texts[2:4] == train.captions(0, "text", 6, 1) and texts != train.captions(1, "text", 5, 4)


def test_the_distance_from_words_by_hand():
    """Words at 0, 3 and 10; vectors at 1 and 8: 1 and 4, and each is drawn to its own word alone."""
    prompt_BQD = torch.tensor([[[1.0], [8.0]]], requires_grad=True)
    far = train.to_nearest_word(prompt_BQD, torch.tensor([[0.0], [3.0], [10.0]]))
    assert far.item() == pytest.approx((1 + 4) / 2)
    far.backward()
    assert prompt_BQD.grad.flatten().tolist() == [1.0, -2.0]


def test_a_few_steps_lower_the_loss(tmp_path, monkeypatch):
    for name, value in {"BATCH": 4, "CHECK_PAIRS": 3, "WARMUP": 2}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(train, "SIZE", {"num_tokens": 3, "hidden": 16, "layers": 1, "heads": 2, "longest": 48})
    (few := tmp_path / "few").mkdir()
    (more := tmp_path / "more").mkdir()
    before, after = (train.train_prompter(few, 0, 2, SHIPPED_OPT), train.train_prompter(more, 0, 25, SHIPPED_OPT))
    assert after["nats"] < before["nats"] - 0.5 and after["n"] == 6
    prompter, made_for = read_prompter(more)
    language = LanguageModel(str(SHIPPED_OPT), dtype="float32")
    language.load()
    assert prompter.num_tokens == 3 and made_for == language.signature
