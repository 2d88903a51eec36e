"""Metrics that torchmetrics has too come to its numbers, where both mean the same."""

import pytest
import torch
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate
from torchmetrics.text import BLEUScore, ROUGEScore

from lit_blip2.evaluation import CaptionScores, RetrievalRecall
from lit_blip2.evaluation.retrieval import similarity


def test_recall_is_the_hit_rate_of_queries_without_ties():
    """Ours counts a tie against the match, theirs by where it stands: random vectors have none. A query of theirs is an
    image among texts, or a text among images."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        normalize(torch.randn(30, 3, 8, generator=generator), dim=-1),
        torch.randn(60, 8, generator=generator),
    )
    texts, counts = normalize(texts, dim=-1), [1 + place % 3 for place in range(30)]
    metric = RetrievalRecall()
    metric.update(images[:11], texts[: sum(counts[:11])], counts[:11])
    metric.update(images[11:], texts[sum(counts[:11]) :], counts[11:])
    found = metric.compute()
    scores_IT, owner_T = similarity(images, texts), torch.repeat_interleave(torch.tensor(counts))
    own_IT = owner_T == torch.arange(30)[:, None]
    for way, scores, own in (("txt", scores_IT, own_IT), ("img", scores_IT.T, own_IT.T)):
        queries = torch.arange(len(scores))[:, None].expand_as(scores)
        for k in (1, 5, 10):
            theirs = RetrievalHitRate(top_k=k)
            theirs.update(scores.flatten(), own.flatten(), queries.flatten())
            assert found[f"retrieval/itc_{way}_r{k}"].item() == pytest.approx(theirs.compute().item()), (way, k)
    assert 0 < found["retrieval/itc_txt_r1"] < found["retrieval/itc_txt_r10"] < 1


CAPTIONS = [
    (
        "a red ring above a blue star at the left",
        ["a red ring above a blue star", "the ring is above the blue star there"],
    ),
    (
        "two small dogs run on the green grass",
        ["two dogs run on the grass", "two small dogs run on the wet green grass"],
    ),
]  # in lower case, without punctuation: all that tokenizers do with them is to split at spaces


def test_bleu_is_theirs():
    """pycocoevalcap adds 1e-15 to what is found and 1e-9 to what is said; and of two references that are equally close
    in length it takes the shorter, torchmetrics the first: here the lengths differ by unequal numbers."""
    metric, theirs = CaptionScores(), BLEUScore(n_gram=4)
    texts, references = zip(*CAPTIONS)
    metric.update(texts, references)
    theirs.update(texts, references)
    expected = theirs.compute().item()
    assert metric.compute()["caption/bleu4"].item() == pytest.approx(expected, rel=1e-6) and 0 < expected < 1


def test_rouge_l_is_made_of_their_precision_and_recall():
    """pycocoevalcap weighs recall by beta = 1.2, torchmetrics gives F1; and of several references pycocoevalcap takes
    the best precision and the best recall apart, so here there is one."""
    metric = CaptionScores()
    metric.update([text for text, _ in CAPTIONS], [references[:1] for _, references in CAPTIONS])
    metric.compute()
    for (text, references), ours in zip(CAPTIONS, metric.items["caption/rouge_l"].values, strict=True):
        theirs = ROUGEScore(rouge_keys="rougeL")(text, references[0])
        precision, recall = theirs["rougeL_precision"], theirs["rougeL_recall"]
        assert ours == pytest.approx(float((1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)), rel=1e-6)
        assert 0 < ours < 1
