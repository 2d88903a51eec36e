"""The metrics as torchmetrics: in batches and on ranks as on all rows at once, and their words on bad input."""

import copy
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from lit_blip2.evaluation import POPE, BindingAccuracy, CaptionScores, RetrievalRecall, VQAAccuracy
from lit_blip2.evaluation.binding import binding_items
from lit_blip2.evaluation.captioning import caption_items
from lit_blip2.evaluation.item_metric import ItemMetric
from lit_blip2.evaluation.items import Items, interval
from lit_blip2.evaluation.pope import pope_items, sampled_items
from lit_blip2.evaluation.retrieval import candidates, ranks, recall_items, rerank, similarity
from lit_blip2.evaluation.vqa import vqa_scores
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


SAID = [["two", "a cat", "Yes.", "no"][place % 4] for place in range(N)]
ANSWERS = [["2"] * 8 + ["3", "cat"], ["cat"], ["yes"], ["no"] * 2 + ["yes"]] * (N // 4)
TYPES = [["how many", "what"][place % 2] for place in range(N)]


def vqa(batches: Sequence[slice]) -> VQAAccuracy:
    metric = VQAAccuracy()
    for rows in batches:
        metric.update(SAID[rows], ANSWERS[rows], TYPES[rows], IMAGES[rows], IDS[rows])
    return metric


def answered() -> dict[str, Items]:
    scores, types = np.array(vqa_scores(SAID, ANSWERS)), np.array(TYPES)
    every = Items(scores, IMAGES, IDS)
    items = {"vqa/accuracy": every, "vqa/mean_over_types": every._replace(strata=types)}
    for kind in ("how many", "what"):
        items[f"vqa/type_{kind.replace(' ', '_')}"] = Items(*(each[types == kind] for each in every[:3]))
    return items


CLAIMS = [["Yes, it is.", "no", "There is not.", "yes"][place % 4] for place in range(N)]
MEANT = ["yes", "no", "no", "yes"] * (N // 4)
TRUTHS = ["yes", "no", "yes"] * (N // 3)
SAMPLINGS = ["random", "far off", ""] * (N // 3)


def pope(batches: Sequence[slice]) -> POPE:
    metric = POPE()
    for rows in batches:
        metric.update(CLAIMS[rows], TRUTHS[rows], SAMPLINGS[rows], IMAGES[rows], IDS[rows])
    return metric


def claimed() -> dict[str, Items]:
    right, types = np.array([float(a == b) for a, b in zip(MEANT, TRUTHS)]), [f"pope {name}" for name in SAMPLINGS]
    types = [name.strip() for name in types]
    items = {"vqa/accuracy": Items(right, IMAGES, IDS)} | pope_items(MEANT, TRUTHS, IMAGES, IDS)
    return items | sampled_items(MEANT, TRUTHS, types, IMAGES, IDS)


TOLD = [f"a {colour} ring above a star\né" for colour in ("red", "blue", "green")] * (N // 3)
REFERENCES = [["a red ring above a star é"] * (1 + place % 2) + ["two stars"] for place in range(N)]
DOMAINS = ["in-domain", "near-domain"] * (N // 2)


def captions(batches: Sequence[slice]) -> CaptionScores:
    metric = CaptionScores()
    for rows in batches:
        metric.update(TOLD[rows], REFERENCES[rows], torch.tensor(IDS[rows]), DOMAINS[rows])
    return metric


# Each with what its formulas give of all rows at once.
METRICS: dict[str, tuple[Callable[[Sequence[slice]], ItemMetric], Callable[[], dict[str, Items]]]] = {
    "binding": (binding, lambda: {"binding/itm_accuracy": binding_items(TRUE, SWAPPED, IMAGES, IDS)}),
    "retrieval": (retrieval, recalled),
    "vqa": (vqa, answered),
    "pope": (pope, claimed),
    "captions": (captions, lambda: caption_items(TOLD, REFERENCES, IDS, DOMAINS)),
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


def nothing_on_rank(rank: int) -> list[str]:
    told = []
    for make, _ in METRICS.values():
        try:
            make([]).compute()
        except ValueError as error:
            told.append(str(error))
    return told


@pytest.mark.run
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_to_score_ends_every_rank(tmp_path):
    """None waits for another."""
    for told in on_ranks(2, tmp_path, nothing_on_rank):
        assert len(told) == len(METRICS) and all("to score" in each for each in told)


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


def test_bad_texts_are_named():
    with pytest.raises(ValueError, match="unequal numbers: 2 predictions, 1 answers, 2 types"):
        VQAAccuracy().update(["a", "b"], [["a"]], ["x", "y"])
    with pytest.raises(ValueError, match=r"answers\[0\] is 'ab', where a list of texts is needed: \['ab'\]"):
        VQAAccuracy().update(["a"], ["ab"])
    with pytest.raises(ValueError, match=r"answers\[1\] is empty"):
        VQAAccuracy().update(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match=r"references\[0\] is empty"):
        CaptionScores().update(["a"], [[]])
    with pytest.raises(ValueError, match="scoring='strict' is none of official, lavis"):
        VQAAccuracy("strict")
    with pytest.raises(ValueError, match="tokenizer='words' is none of spaces, ptb"):
        CaptionScores("words")
    metric = VQAAccuracy()
    metric.update(["a", "a"], [["a"], ["b"]])
    metric.update(["a"], [["a"]], ids=[3])
    with pytest.raises(ValueError, match="ids of 1 of 3 items: give them in every update, or in none"):
        metric.compute()
    metric = POPE()
    metric.update(["yes"], ["maybe"])
    with pytest.raises(ValueError, match="'maybe' is neither yes nor no"):
        metric.compute()


def test_ids_and_types_may_be_left_out():
    metric = VQAAccuracy()
    metric.update(["a"], [["a"]])
    metric.update(["a", "a"], [["a"], ["b"]])
    assert metric.compute() == {"vqa/accuracy": torch.tensor(2 / 3)}
    assert metric.items["vqa/accuracy"].ids.tolist() == [0, 1, 2]
