import math

import pytest
import torch

from lit_blip2.evaluation.binding import binding_accuracy
from lit_blip2.evaluation.captioning import caption_scores
from lit_blip2.evaluation.queries import query_usage


def test_binding_counts_ties_half():
    assert binding_accuracy(torch.tensor([2.0, 0.0, 1.0, 5.0]), torch.tensor([1.0, 1.0, 1.0, 4.0])) == 0.625
    assert binding_accuracy(torch.zeros(9), torch.zeros(9)) == 0.5


def test_binding_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match="nan"):
        binding_accuracy(torch.tensor([float("nan")]), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"\(0,\)"):
        binding_accuracy(torch.zeros(0), torch.zeros(0))


def test_query_usage():
    counts, entropy, share = query_usage(torch.tensor([[0, 0], [2, 2]]), 4)
    assert counts.tolist() == [2, 0, 2, 0]
    assert entropy == pytest.approx(math.log(2)) and share == pytest.approx(0.5)
    assert query_usage(torch.arange(8), 8)[2] == pytest.approx(1)
    assert query_usage(torch.zeros(5, dtype=torch.long), 8)[1:] == (0, 0)
    assert query_usage(torch.zeros(5, dtype=torch.long), 1)[1:] == (0, 0)
    with pytest.raises(ValueError, match="query 4 won"):
        query_usage(torch.tensor([4]), 4)


def test_perfect_captions_score_the_maximum():
    texts = ["a small red circle", "two blue squares and a star", "a green star at the left"]
    scores = caption_scores([text.upper() for text in texts], [[text, "something else entirely"] for text in texts])
    assert scores["caption/bleu4"] == pytest.approx(1, abs=1e-6)
    assert caption_scores(texts, [[text] for text in texts])["caption/cider"] == pytest.approx(10)


def test_bleu_by_hand():
    # 5 words: precisions 4/5, 3/4, 2/3, 1/2, same length as the reference
    scores = caption_scores(["a b c d x"], [["a b c d e"]])
    assert scores["caption/bleu4"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, abs=1e-6)


def test_shuffled_captions_score_less():
    texts = ["a small red circle", "two blue squares and a star", "a green star at the left"]
    right, wrong = (caption_scores(given, [[text] for text in texts]) for given in (texts, texts[::-1]))
    assert all(wrong[name] < right[name] for name in right)


def test_caption_errors():
    with pytest.raises(ValueError, match="1 captions for 0"):
        caption_scores(["a"], [])
    with pytest.raises(ValueError, match="image 0 of 1"):
        caption_scores(["a"], [[]])
