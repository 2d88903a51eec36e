import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.retrieval import candidates, ranks, recall_items, rerank

INF = float("inf")


def logged(found, owner_T, prefix) -> dict[str, float]:
    """What a run logs of ranks."""
    items = recall_items(found, torch.arange(len(found["txt"])), owner_T, prefix)
    return {name: each.value() for name, each in items.items()}


def recalls(scores_IT, owner_T, prefix) -> dict[str, float]:
    return logged(ranks(scores_IT, owner_T), owner_T, prefix)


def test_a_text_keeps_its_number_wherever_its_image_stands():
    """Two runs may meet the images in another order; their queries are matched all the same."""
    scores_IT, owner_T = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) // 2
    turned_I, turned_T = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 5, 0, 1, 6, 7, 2, 3])
    one = recall_items(ranks(scores_IT, owner_T), torch.tensor([7, 8, 9, 10]), owner_T, "x")
    two = recall_items(ranks(scores_IT[turned_I][:, turned_T], owner_T), torch.tensor([9, 7, 10, 8]), owner_T, "x")
    assert sorted(one["x_img_r1"].ids.tolist()) == [7000, 7001, 8000, 8001, 9000, 9001, 10000, 10001]
    for name in one:
        assert by_id(one[name]) == by_id(two[name])


def by_id(items: Items) -> dict[int, tuple[int, float]]:
    return {number: row for number, *row in zip(items.ids.tolist(), items.images.tolist(), items.values.tolist())}


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


LEVELS = st.sampled_from([-INF, 0.0, 0.5, 1.0])  # few levels: many ties


@st.composite
def worlds(draw):
    """(the image of each text, scores [I, T] twice): several texts for some images, in any order, many ties."""
    images, extra = draw(st.integers(1, 7)), draw(st.integers(0, 9))
    owner = list(range(images)) + draw(st.lists(st.integers(0, images - 1), min_size=extra, max_size=extra))
    owner = np.array(draw(st.permutations(owner)))
    grid = st.lists(LEVELS, min_size=images * len(owner), max_size=images * len(owner))
    return owner, *(np.array(draw(grid)).reshape(images, -1) for _ in range(2))


def assert_recalls(found, owner, scores_IT, scores_TI):
    got = logged(found, torch.tensor(owner), "x")
    for k in (1, 5, 10):
        wanted = plain_recalls(scores_IT, scores_TI, owner, k)
        assert got[f"x_txt_r{k}"] == pytest.approx(wanted["txt"])
        assert got[f"x_img_r{k}"] == pytest.approx(wanted["img"])


@given(worlds())
@settings(deadline=None)
def test_equals_sorting_with_ties_lost(world):
    owner, scores_IT, _ = world
    assert_recalls(ranks(torch.tensor(scores_IT), torch.tensor(owner)), owner, scores_IT, scores_IT.T)


@given(worlds(), st.integers(1, 8), st.sampled_from(["itc", "itm", "sum"]))
@settings(deadline=None)
def test_reranking_equals_sorting_matrices_without_what_is_no_candidate(world, k, mode):
    """Whole matrices, -inf where a row does not have a column among its candidates: what re-ranking never builds."""
    owner, cosine_IT, itm_IT = world
    found = candidates(torch.tensor(cosine_IT), k)
    image_P, text_P = found.pairs_P2.numpy().T
    pairs = [torch.tensor(scores_IT[image_P, text_P]) for scores_IT in (cosine_IT, itm_IT)]
    mixed_IT = {"itc": cosine_IT, "itm": itm_IT, "sum": cosine_IT + itm_IT}[mode]
    kept_IT, kept_TI = np.full_like(mixed_IT, -INF), np.full_like(mixed_IT.T, -INF)
    np.put_along_axis(kept_IT, found.texts_IK.numpy(), np.take_along_axis(mixed_IT, found.texts_IK.numpy(), 1), 1)
    np.put_along_axis(kept_TI, found.images_TK.numpy(), np.take_along_axis(mixed_IT.T, found.images_TK.numpy(), 1), 1)
    assert_recalls(rerank(found, *pairs, mode, torch.tensor(owner)), owner, kept_IT, kept_TI)


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
    found = candidates(scores_IT, 2)
    assert found.texts_IK.tolist() == [[1, 2], [2, 0]]
    assert found.images_TK.tolist() == [[1, 0], [0, 1], [1, 0]]
    found = candidates(scores_IT, 1)
    assert found.pairs_P2.tolist() == [[0, 1], [1, 0], [1, 2]]
    assert found.place_IK.tolist() == [[0], [2]] and found.place_TK.tolist() == [[1], [0], [2]]


def test_rerank_by_hand():
    """Two candidates of each image, one of each text; the second image's own text, 1, is no candidate of its."""
    cosine_IT, owner_T = torch.tensor([[1.0, 5.0, 3.0], [2.0, 0.0, 4.0]]), torch.tensor([0, 1, 0])
    found = candidates(cosine_IT, 2)._replace(images_TK=torch.tensor([[1], [0], [0]]))
    assert found.pairs_P2.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    found = found._replace(place_TK=torch.tensor([[3], [1], [2]]))
    cosine_P, itm_P = cosine_IT.flatten(), torch.tensor([0.0, 1.0, 9.0, 2.0, 7.0, 3.0])
    for mode, first in {"itc": 2, "itm": 1, "sum": 1}.items():
        got = rerank(found, cosine_P, itm_P, mode, owner_T)
        assert got["txt"].tolist() == [first, 3]  # text 2 against text 1; then behind both other texts
        assert got["img"].tolist() == [2, 2, 1]  # texts 0 and 1 have only the other image: last of two


def test_reranking_all_pairs_by_cosine_changes_nothing_and_by_itm_replaces_it():
    generator = torch.Generator().manual_seed(0)
    cosine_IT, itm_IT = torch.rand(2, 30, 60, generator=generator)
    owner_T = torch.arange(60) // 2
    found = candidates(cosine_IT, 128)
    assert len(found.pairs_P2) == 30 * 60

    def recalled(mode):
        at = tuple(found.pairs_P2.T)
        return logged(rerank(found, cosine_IT[at], itm_IT[at], mode, owner_T), owner_T, "x")

    assert recalled("itc") == recalls(cosine_IT, owner_T, "x")
    assert recalled("itm") == recalls(itm_IT, owner_T, "x") != recalls(cosine_IT, owner_T, "x")
    assert recalled("sum") == recalls(itm_IT + cosine_IT, owner_T, "x")


def test_what_itc_left_out_cannot_be_found():
    scores_IT = -torch.eye(12)  # the true match is the worst of all
    found = candidates(scores_IT, 4)
    ones_P = torch.ones(len(found.pairs_P2))
    assert set(logged(rerank(found, ones_P, ones_P, "itm", torch.arange(12)), torch.arange(12), "x").values()) == {0.0}


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="nan"):
        recalls(torch.tensor([[float("nan")]]), torch.tensor([0]), "x")
    with pytest.raises(ValueError, match="row 1 has no text"):
        recalls(torch.zeros(2, 2), torch.tensor([0, 0]), "x")
    with pytest.raises(ValueError, match=r"\(2, 3\) do not fit \(2,\)"):
        recalls(torch.zeros(2, 3), torch.tensor([0, 1]), "x")
    found, one_P, owner_T = candidates(torch.zeros(1, 1)), torch.zeros(1), torch.zeros(1).long()
    with pytest.raises(ValueError, match="'both' is none of"):
        rerank(found, one_P, one_P, "both", owner_T)
    with pytest.raises(ValueError, match="nan"):
        rerank(found, one_P, one_P / 0, "itm", owner_T)
