"""The metrics as torchmetrics: in batches and on ranks as on all rows at once, and their words on bad input."""

import copy
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from lit_blip2.evaluation import BindingAccuracy, RetrievalRecall
from lit_blip2.evaluation.binding import binding_items
from lit_blip2.evaluation.item_metric import ItemMetric
from lit_blip2.evaluation.items import Items, interval
from lit_blip2.evaluation.retrieval import candidates, ranks, recall_items, rerank, similarity
from tests.ranks import on_ranks

N = 12  # rows
IMAGES, IDS = np.arange(N) // 3, np.arange(N) + 100  # of the rows; images have several
TRUE, SWAPPED = torch.randint(4, (2, N), generator=torch.Generator().manual_seed(0)) / 4  # few levels, so some tie


def binding(batches: Sequence[slice]) -> BindingAccuracy:
    metric = BindingAccuracy("itm")
    for rows in batches:
        metric.update(TRUE[rows], SWAPPED[rows], torch.tensor(IMAGES[rows]), torch.tensor(IDS[rows]))
    return metric


COUNTS = [1 + place % 3 for place in range(N)]  # texts of each row's image
VECTORS = torch.nn.functional.normalize(
    torch.randn(N * 2 + sum(COUNTS), 4, generator=torch.Generator().manual_seed(1)), dim=-1
)
QUERIES, TEXTS = VECTORS[: N * 2].view(N, 2, 4), VECTORS[N * 2 :]


def match(pairs_P2: torch.Tensor) -> torch.Tensor:
    """A score of each pair that has nothing to do with its cosine."""
    return (pairs_P2 * torch.tensor([0.37, 0.61])).sum(1).sin()


def retrieval(batches: Sequence[slice]) -> RetrievalRecall:
    metric = RetrievalRecall(match, rerank=4)
    ends = [0, *torch.tensor(COUNTS).cumsum(0).tolist()]
    for rows in batches:
        texts = TEXTS[ends[rows.start] : ends[rows.stop]]
        metric.update(QUERIES[rows], texts, COUNTS[rows], torch.tensor(IDS[rows]))
    return metric


def recalled() -> dict[str, Items]:
    cosine_IT, owner_T = similarity(QUERIES, TEXTS), torch.repeat_interleave(torch.tensor(COUNTS))
    found = candidates(cosine_IT, 4)
    by = {"itc": ranks(cosine_IT, owner_T)}
    for mode in ("itm", "sum"):
        by[mode] = rerank(found, cosine_IT[tuple(found.pairs_P2.T)], match(found.pairs_P2), mode, owner_T)
    items = [recall_items(each, torch.tensor(IDS), owner_T, f"retrieval/{mode}") for mode, each in by.items()]
    return items[0] | items[1] | items[2]


# Each with what its formulas give of all rows at once.
METRICS: dict[str, tuple[Callable[[Sequence[slice]], ItemMetric], Callable[[], dict[str, Items]]]] = {
    "binding": (binding, lambda: {"binding/itm_accuracy": binding_items(TRUE, SWAPPED, IMAGES, IDS)}),
    "retrieval": (retrieval, recalled),
}


def told(items: dict[str, Items]) -> dict[str, tuple]:
    """Values, rows and intervals to the last bit."""
    return {
        name: (each.value(), each.values.tolist(), each.images.tolist(), each.ids.tolist(), interval(each, draws=50))
        for name, each in items.items()
    }


@pytest.mark.parametrize("name", METRICS)
def test_batches_come_to_the_formula_of_all_rows(name):
    make, expected = METRICS[name]
    metric = make([slice(0, 5), slice(5, 6), slice(6, N)])
    values = metric.compute()
    assert told(metric.items) == told(expected())
    assert values == {name: torch.tensor(each.value()) for name, each in expected().items()}
    assert told(pickle.loads(pickle.dumps(metric)).items) == told(copy.deepcopy(metric).items) == told(expected())
    metric.reset()
    assert not metric.items and not any(map(len, metric.metric_state.values()))


def test_forward_tells_of_the_batch_and_keeps_all():
    metric = BindingAccuracy()
    assert metric(torch.ones(2), torch.zeros(2)) == {"binding/itc_accuracy": 1}
    assert metric(torch.zeros(2), torch.ones(2)) == {"binding/itc_accuracy": 0}
    assert metric.compute() == {"binding/itc_accuracy": 0.5} and len(metric.items["binding/itc_accuracy"].ids) == 4


def on_rank(rank: int) -> dict[str, tuple]:
    """The first rank has seven rows in two batches, the second the others, the third none."""
    batches = [[slice(0, 5), slice(5, 7)], [slice(7, N)], []][rank]
    found = {}
    for name, (make, _) in METRICS.items():
        metric = make(batches)
        before = [torch.cat(each) if each else None for each in metric.metric_state.values()]
        metric.compute()
        after = [torch.cat(each) if each else None for each in metric.metric_state.values()]
        kept = all(one is two or torch.equal(one, two) for one, two in zip(before, after, strict=True))
        found[name] = told(metric.items), kept
    return found


@pytest.mark.run
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_ranks_with_unequal_shares_come_to_what_one_does(tmp_path):
    for found in on_ranks(3, tmp_path, on_rank):
        for name, (_, expected) in METRICS.items():
            assert found[name] == (told(expected()), True), name


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_to_score_is_one_line(name):
    with pytest.raises(ValueError, match=r"^there are no .* to score: call update before compute$"):
        METRICS[name][0]([]).compute()


def test_bad_pairs_are_named():
    with pytest.raises(ValueError, match=r"unequal numbers: 2 true, 1 swapped$"):
        BindingAccuracy().update(torch.zeros(2), torch.zeros(1))
    metric = BindingAccuracy()
    metric.update(torch.zeros(2), torch.zeros(2))
    metric.update(torch.zeros(1), torch.zeros(1), torch.tensor([7]))
    with pytest.raises(ValueError, match="image_ids of 1 of 3 items: give them in every update, or in none"):
        metric.compute()


def test_bad_images_and_texts_are_named():
    metric = RetrievalRecall(lambda pairs_P2: torch.zeros(3))
    with pytest.raises(ValueError, match="unequal numbers: 2 images, 1 counts"):
        metric.update(torch.eye(2), torch.eye(2), [2])
    with pytest.raises(ValueError, match="2 texts, where counts add up to 3"):
        metric.update(torch.eye(2), torch.eye(2), [1, 2])
    with pytest.raises(ValueError, match="image 1 of the batch has no text"):
        metric.update(torch.eye(2), torch.eye(2), [2, 0])
    with pytest.raises(ValueError, match="rerank=0 must be at least 1"):
        RetrievalRecall(rerank=0)
    metric.update(torch.eye(2), torch.eye(2))
    with pytest.raises(ValueError, match=r"match gave \(3,\) for 4 pairs"):
        metric.compute()
