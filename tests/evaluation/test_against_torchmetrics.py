"""Metrics that torchmetrics has too come to its numbers, where both mean the same."""

import pytest
import torch
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate

from lit_blip2.evaluation import RetrievalRecall
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
            assert found[f"retrieval/itc_{way}_r{k}"] == pytest.approx(theirs.compute()), (way, k)
    assert 0 < found["retrieval/itc_txt_r1"] < found["retrieval/itc_txt_r10"] < 1
