"""Orders of shards and of mixtures: what each epoch visits, from how few shards, in which proportions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_blip2.data.batches.mixing import CYCLE, Mix, WindowShuffle
from lit_blip2.data.batches.order import Shuffle, StepBatchSampler, batch_indices


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40), window=st.integers(1, 9), seed=st.integers(0, 2**40)
)
@settings(deadline=None)
def test_each_epoch_of_shards_visits_every_sample_once(sizes, window, seed):
    order, n = WindowShuffle(sizes, window), sum(sizes)
    stream = order.at(seed, np.arange(2 * n))
    for epoch in stream.reshape(2, n):
        assert sorted(epoch.tolist()) == list(range(n))


@given(shards=st.integers(8, 60), seed=st.integers(0, 99), start=st.integers(0, 3000))
@settings(deadline=None)
def test_a_batch_comes_from_the_shards_of_one_or_two_windows_mixed(shards, seed, start):
    order, size = WindowShuffle([50] * shards), 50
    shard_B = order.at(seed, np.arange(start, start + 200)) // size
    assert len(set(shard_B.tolist())) <= 2 * 15  # a window has 8 to 15 of them
    runs = 1 + (shard_B[1:] != shard_B[:-1]).sum()
    assert runs > 120  # eight interleaved shards: seven of eight neighbours differ


def test_a_sample_s_place_needs_no_other_place():
    order = WindowShuffle([7, 3, 9, 1, 5, 8, 2, 6, 4, 11, 12, 10, 13, 14, 15, 16, 17])
    places = np.random.default_rng(0).permutation(500)
    assert (order.at(3, places) == order.at(3, np.arange(500))[places]).all()
    assert (order.at(3, np.arange(100)) != order.at(4, np.arange(100))).any()


def test_two_epochs_of_shards_differ():
    order = WindowShuffle([20] * 32)
    first, second = order.at(0, np.arange(2 * 640)).reshape(2, 640)
    assert (first // 20 != second // 20).mean() > 0.9


@given(data=st.data(), seed=st.integers(0, 2**40))
@settings(deadline=None)
def test_a_mixture_has_its_proportions_after_every_cycle(data, seed):
    group = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=6))
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=len(sizes), max_size=len(sizes)))
    cycles = data.draw(st.integers(1, 4))
    mix = Mix([Shuffle(size * group, group) for size in sizes], weights)
    stream = mix.at(seed, np.arange(cycles * CYCLE * group)).reshape(-1, group)
    assert (stream == stream[:, :1] + np.arange(group)).all()
    source = np.searchsorted(mix.start, stream[:, 0], side="right") - 1
    wanted = cycles * CYCLE * np.array(weights) / sum(weights)
    assert (abs(np.bincount(source, minlength=len(sizes)) - wanted) < len(sizes)).all()


def test_by_size_every_sample_comes_equally_often_and_sources_are_interleaved():
    mix = Mix([Shuffle(300), WindowShuffle([10] * 10), Shuffle(9)])
    stream = mix.at(5, np.arange(CYCLE * len(mix)))
    assert set(np.bincount(stream, minlength=len(mix)).tolist()) == {CYCLE}
    first = np.searchsorted(mix.start, stream[:CYCLE], side="right") - 1
    assert 0.3 < (first[1:] != first[:-1]).mean() < 0.5  # of independent draws .43


def test_a_mixture_is_the_same_wherever_one_looks():
    mix = Mix([Shuffle(30), WindowShuffle([5] * 20)], [1, 2])
    places = np.random.default_rng(0).permutation(3000)
    assert (mix.at(1, places) == mix.at(1, np.arange(3000))[places]).all()
    assert (batch_indices(mix, 1, 100_000, 64) == mix.at(1, np.arange(6_400_000, 6_400_064))).all()


@given(world=st.sampled_from([1, 2, 4]), accumulate=st.integers(1, 2), start=st.integers(0, 30))
@settings(deadline=None)
def test_ranks_divide_a_mixture_s_batch(world, accumulate, start):
    mix = Mix([Shuffle(40, 2), Shuffle(60, 2)], [3, 1])
    ranks = [StepBatchSampler(mix, 16, 7, start, start + 2, rank, world, accumulate) for rank in range(world)]
    keys = [key for micro in zip(*ranks, strict=True) for part in micro for key in part]
    assert [index for _, _, index in keys] == mix.at(7, np.arange(start * 16, start * 16 + 32)).tolist()


@pytest.mark.parametrize(
    ("orders", "weights", "words"),
    [
        ([Shuffle(4), Shuffle(4)], [1], "1 weights for 2 sources"),
        ([Shuffle(4), Shuffle(4)], [1, 0], r"weights \[0\] must be positive"),
        ([Shuffle(4), Shuffle(4)], [1, float("nan")], "must be positive"),
        ([Shuffle(4, 2), Shuffle(4)], None, r"groups of \[1, 2\]"),
        ([Shuffle(1)] * 33, None, "33 sources"),
    ],
)
def test_what_cannot_be_mixed_says_why(orders, weights, words):
    with pytest.raises(ValueError, match=words):
        Mix(orders, weights)
