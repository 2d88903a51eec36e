"""Retrieval over batches and ranks against one plain pass per pair; and where its features are kept."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from lit_blip2.evaluation import recall
from lit_blip2.evaluation.retrieval import candidates, ranks, recall_items, rerank, similarity
from lit_blip2.lit.evaluators import retrieval
from lit_blip2.lit.evaluators.feature_buffer import FeatureBuffer
from lit_blip2.lit.evaluators.representation import Representation
from lit_blip2.lit.evaluators.retrieval import RetrievalSet, match_pairs
from lit_blip2.model.text import PackedText
from tests.ranks import on_ranks

COUNTS = [2, 1, 3, 1, 2]  # texts of each of five images


@pytest.fixture
def net(make_stage1):
    return make_stage1("itc", "itm").eval()


@pytest.fixture
def images(make_batch):
    """Features of five images, and the token ids of their texts, image by image."""
    features_BND, text, *_ = make_batch(sum(COUNTS))
    ids = [row[:n].tolist() for row, n in zip(text.padded(), text.lengths_B)]
    places = torch.tensor(COUNTS).cumsum(0).tolist()
    return features_BND[: len(COUNTS)], [ids[end - count : end] for end, count in zip(places, COUNTS)]


def collect(net, images, batches, features_gb=8.0) -> RetrievalSet:
    """Batches of places among the images."""
    found = RetrievalSet(net, rerank=2, features_gb=features_gb)
    for places in batches:
        texts = [text for place in places for text in images[1][place]]
        counts = [COUNTS[place] for place in places]
        found.add(images[0][places], PackedText.from_lists(texts), torch.tensor(places) + 10, counts)
    return found


def plain(net, images) -> dict[str, float]:
    """All images as one batch, and a forward for each pair of an image and a text."""
    text = PackedText.from_lists([text for texts in images[1] for text in texts])
    owner_T, ids_I = torch.repeat_interleave(torch.tensor(COUNTS)), torch.arange(len(COUNTS)) + 10
    with torch.no_grad():
        cosine_IT = similarity(net.encode_images(images[0])[0], net.encode_texts(text))
        found = candidates(cosine_IT, 2)
        logits = [
            net.match_logits(net.qformer.project_image(images[0][[image]]), text.select(torch.tensor([place])))[0, 1]
            for image, place in found.pairs_P2.tolist()
        ]
    by = {"itc": ranks(cosine_IT, owner_T)}
    for mode in ("itm", "sum"):
        by[mode] = rerank(found, cosine_IT[tuple(found.pairs_P2.T)], torch.stack(logits), mode, owner_T)
    items = [recall_items(each, ids_I, owner_T, f"retrieval/{mode}") for mode, each in by.items()]
    return {name: item.value() for each in items for name, item in each.items()}


@pytest.mark.parametrize("features_gb", [8.0, 0.0])
def test_equals_a_forward_for_each_pair(net, images, features_gb, monkeypatch):
    monkeypatch.setattr(retrieval, "PAIRS_PER_PASS", 3)
    monkeypatch.setattr(recall, "IMAGES_AT_ONCE", 2)
    assert collect(net, images, [[0, 1, 2], [3, 4]], features_gb).metrics() == plain(net, images)


def test_each_image_is_projected_once_for_re_ranking(net, images, monkeypatch):
    seen, project = [], net.qformer.project_image
    found = collect(net, images, [[0, 1, 2, 3, 4]])
    monkeypatch.setattr(net.qformer, "project_image", lambda x_BND: seen.append(len(x_BND)) or project(x_BND))
    found.metrics()
    assert seen == [1] * 5


def test_pairs_keep_their_order_through_passes(net, images, monkeypatch):
    text = PackedText.from_lists([text for texts in images[1] for text in texts])
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(9).flip(0))
    monkeypatch.setattr(retrieval, "PAIRS_PER_PASS", 4)
    logits = match_pairs(net, images[0], text, pairs, bar=False)
    image = net.qformer.project_image(images[0]).select(pairs[:, 0])
    torch.testing.assert_close(logits, net.match_logits(image, text.select(pairs[:, 1]))[:, 1])


def test_a_bar_stands_beside_one_that_is_there(net, images, monkeypatch, capsys):
    """The trainer's bar is still on the screen when re-ranking begins."""
    monkeypatch.setattr(retrieval, "LONG", 9)
    text = PackedText.from_lists([text for texts in images[1] for text in texts])
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(2))
    with Progress():
        match_pairs(net, images[0], text, pairs, bar=True)
    assert "re-ranking images" in capsys.readouterr().out
    match_pairs(net, images[0], text, pairs, bar=False)
    assert "re-ranking" not in capsys.readouterr().out


def results(found: RetrievalSet) -> tuple:
    return found.metrics(), found.query_wins(), found.items["retrieval/sum_img_r1"].ids.tolist()


def results_of_rank(rank: int, net, images, batches) -> tuple:
    return results(collect(net, images, batches[rank]))


@pytest.mark.run
def test_ranks_with_unequal_shares_find_what_one_finds(net, images, tmp_path):
    """Three, two and no images; every rank has the figures of all."""
    batches = [[[0, 1], [2]], [[3, 4]], []]
    expected = results(collect(net, images, [[0, 1, 2, 3, 4]]))
    for metrics, wins, ids in on_ranks(3, tmp_path, results_of_rank, net, images, batches):
        assert metrics == expected[0] and torch.equal(wins, expected[1]) and ids == expected[2]


def test_without_itc_there_is_no_retrieval(make_stage1, images):
    with pytest.warns(UserWarning, match="itm without itc"):
        found = collect(make_stage1("itm"), images, [[0, 1]])
    assert found.metrics() == {} and found.query_wins() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_beyond_the_limit_are_mapped_and_their_files_gone(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = torch.randn(10, 3, 4).to(dtype)
    kept = FeatureBuffer(limit_gb=5 * rows[0].nbytes / 1e9)
    for part in rows.split(2):
        kept.add(part)
    assert kept.held == 4 * rows[0].nbytes and len(kept) == 10
    assert torch.equal(torch.stack(list(kept)), rows) and next(iter(kept)).dtype == dtype
    assert not list(tmp_path.iterdir())
    mapped = [line for line in Path(f"/proc/{os.getpid()}/maps").read_text().splitlines() if str(tmp_path) in line]
    assert len(mapped) == 3 and all("(deleted)" in line for line in mapped)


def test_no_room_is_told_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/full")
    full = Path("/dev/full").open("wb")  # noqa: SIM115
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: full)
    with pytest.raises(OSError, match=r"features_gb=0.*/dev/full.*TMPDIR"):
        FeatureBuffer(0).add(torch.randn(64, 300, 20))
    with pytest.raises(ValueError, match="features_gb=-1"):
        Representation(None, rerank=1, features_gb=-1)
