import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_blip2.evaluation.items import difference
from lit_blip2.evaluation.retrieval import candidate_pairs, candidates, ranks, recall_items, rerank

INF = float("inf")


def recalls(scores_IT, owner_T, prefix, scores_TI=None) -> dict[str, float]:
    """What a run logs."""
    items = recall_items(ranks(scores_IT, owner_T, scores_TI), torch.arange(len(scores_IT)), owner_T, prefix)
    return {name: each.mean() for name, each in items.items()}


def test_a_text_keeps_its_number_wherever_its_image_stands():
    """Two runs may meet the images in another order; their queries are matched all the same."""
    scores_IT, owner_T = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) // 2
    turned_I, turned_T = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 5, 0, 1, 6, 7, 2, 3])
    one = recall_items(ranks(scores_IT, owner_T), torch.tensor([7, 8, 9, 10]), owner_T, "x")
    two = recall_items(ranks(scores_IT[turned_I][:, turned_T], owner_T), torch.tensor([9, 7, 10, 8]), owner_T, "x")
    assert sorted(one["x_img_r1"].ids.tolist()) == [7000, 7001, 8000, 8001, 9000, 9001, 10000, 10001]
    assert not any(difference(one[name], two[name]).values.any() for name in one)


def plain_recalls(scores_IT, scores_TI, image_of_text, k):
    """Sorting with every tie lost, one query at a time."""
    found = {"txt": [], "img": []}
    for image, row in enumerate(scores_IT):
        order = sorted(range(len(row)), key=lambda t: (-row[t], image_of_text[t] == image))
        first = next(place for place, text in enumerate(order) if image_of_text[text] == image)
        # own texts that tie with the best own one do not stand in its way
        found["txt"].append(first < k)
    for text, row in enumerate(scores_TI):
        order = sorted(range(len(row)), key=lambda i: (-row[i], image_of_text[text] == i))
        found["img"].append(order.index(image_of_text[text]) < k)
    return {way: np.mean(hits) for way, hits in found.items()}


@given(st.data())
@settings(deadline=None)
def test_equals_sorting_with_ties_lost(data):
    images, extra = data.draw(st.integers(1, 7)), data.draw(st.integers(0, 9))
    owner = list(range(images)) + data.draw(st.lists(st.integers(0, images - 1), min_size=extra, max_size=extra))
    owner = np.array(data.draw(st.permutations(owner)))
    levels = st.sampled_from([-INF, 0.0, 0.5, 1.0])  # few levels: many ties
    grid = st.lists(levels, min_size=images * len(owner), max_size=images * len(owner))
    scores_IT = np.array(data.draw(grid)).reshape(images, -1)
    scores_TI = np.array(data.draw(grid)).reshape(-1, images)
    got = recalls(torch.tensor(scores_IT), torch.tensor(owner), "x", torch.tensor(scores_TI))
    for k in (1, 5, 10):
        wanted = plain_recalls(scores_IT, scores_TI, owner, k)
        assert got[f"x_txt_r{k}"] == pytest.approx(wanted["txt"])
        assert got[f"x_img_r{k}"] == pytest.approx(wanted["img"])


def test_by_hand():
    scores_IT = torch.tensor([[0.1, 0.9, 0.2, 0.3], [0.4, 0.0, 0.5, 0.0]])
    owner_T = torch.tensor([0, 0, 1, 1])
    assert recalls(scores_IT, owner_T, "retrieval/itc") == {
        "retrieval/itc_txt_r1": 1.0,  # 0.9 is image 0's own, 0.5 image 1's own
        "retrieval/itc_txt_r5": 1.0,
        "retrieval/itc_txt_r10": 1.0,
        "retrieval/itc_img_r1": 0.5,  # texts 1 and 2 find their image, 0 and 3 the other
        "retrieval/itc_img_r5": 1.0,
        "retrieval/itc_img_r10": 1.0,
    }


def test_a_constant_score_recalls_nothing():
    got = recalls(torch.zeros(20, 40), torch.arange(40) // 2, "x")
    assert set(got.values()) == {0.0}


def test_candidates_are_the_best():
    scores_IT = torch.tensor([[1.0, 5.0, 3.0], [2.0, 0.0, 4.0]])
    texts_IK, images_TK = candidates(scores_IT, 2)
    assert texts_IK.tolist() == [[1, 2], [2, 0]]
    assert images_TK.tolist() == [[1, 0], [0, 1], [1, 0]]
    texts_IK, images_TK = candidates(scores_IT, 1)
    assert candidate_pairs(texts_IK, images_TK).tolist() == [[0, 1], [1, 0], [1, 2]]


def test_rerank_by_hand():
    scores_IT = torch.tensor([[1.0, 5.0, 3.0], [2.0, 0.0, 4.0]])
    texts_IK, images_TK = candidates(scores_IT, 1)
    pairs_P2 = candidate_pairs(texts_IK, images_TK)
    itm_P = torch.tensor([10.0, 20.0, 30.0])
    for mode, values in {"itc": (5, 4, 2), "itm": (10, 30, 20), "sum": (15, 34, 22)}.items():
        image_IT, text_TI = rerank(scores_IT, texts_IK, images_TK, pairs_P2, itm_P, mode)
        # (1, 0) is a candidate of text 0 only: image 1 must not see it
        assert image_IT.tolist() == [[-INF, values[0], -INF], [-INF, -INF, values[1]]]
        assert text_TI.tolist() == [[-INF, values[2]], [values[0], -INF], [-INF, values[1]]]


def test_reranking_all_pairs_by_cosine_changes_nothing_and_by_itm_replaces_it():
    generator = torch.Generator().manual_seed(0)
    cosine_IT, itm_IT = torch.rand(2, 30, 60, generator=generator)
    owner_T = torch.arange(60) // 2
    texts_IK, images_TK = candidates(cosine_IT, 128)
    pairs_P2 = candidate_pairs(texts_IK, images_TK)
    assert len(pairs_P2) == 30 * 60
    itm_P = itm_IT[pairs_P2[:, 0], pairs_P2[:, 1]]

    def recalled(mode):
        scores_IT, scores_TI = rerank(cosine_IT, texts_IK, images_TK, pairs_P2, itm_P, mode)
        return recalls(scores_IT, owner_T, "x", scores_TI)

    assert recalled("itc") == recalls(cosine_IT, owner_T, "x")
    assert recalled("itm") == recalls(itm_IT, owner_T, "x") != recalls(cosine_IT, owner_T, "x")
    assert recalled("sum") == recalls(itm_IT + cosine_IT, owner_T, "x")


def test_what_itc_left_out_cannot_be_found():
    scores_IT = -torch.eye(12)  # the true match is the worst of all
    texts_IK, images_TK = candidates(scores_IT, 4)
    pairs_P2 = candidate_pairs(texts_IK, images_TK)
    reranked = rerank(scores_IT, texts_IK, images_TK, pairs_P2, torch.ones(len(pairs_P2)), "itm")
    assert set(recalls(reranked[0], torch.arange(12), "x", reranked[1]).values()) == {0.0}


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="nan"):
        recalls(torch.tensor([[float("nan")]]), torch.tensor([0]), "x")
    with pytest.raises(ValueError, match="row 1 has no text"):
        recalls(torch.zeros(2, 2), torch.tensor([0, 0]), "x")
    with pytest.raises(ValueError, match=r"\(2, 3\) do not fit \(2,\)"):
        recalls(torch.zeros(2, 3), torch.tensor([0, 1]), "x")
    with pytest.raises(ValueError, match="'both' is none of"):
        rerank(torch.zeros(1, 1), *candidates(torch.zeros(1, 1)), torch.zeros(1, 2).long(), torch.zeros(1), "both")
