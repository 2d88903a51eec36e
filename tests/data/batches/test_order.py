import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_blip2.data.batches.order import Shuffle, StepBatchSampler, batch_indices, permute, row_rng


@given(n=st.integers(1, 300), epoch=st.integers(0, 10**6), seed=st.integers(0, 2**63))
def test_each_epoch_is_a_permutation(n, epoch, seed):
    image = permute(np.arange(n), np.full(n, epoch), n, seed)
    assert sorted(image.tolist()) == list(range(n))


@given(data=st.data(), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_stream_visits_each_sample_once_per_epoch_and_keeps_groups(data, seed):
    group = data.draw(st.integers(1, 4))
    batch = group * data.draw(st.integers(1, 8))
    n = group * data.draw(st.integers(batch // group, 40))
    steps = 3 * n // batch + 1
    stream = np.concatenate([batch_indices(Shuffle(n, group), seed, k, batch) for k in range(steps)])
    for epoch in range(len(stream) // n):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))
    blocks = stream.reshape(-1, group)
    assert (blocks == blocks[:, :1] + np.arange(group)).all()
    assert (blocks[:, 0] % group == 0).all()


@given(
    world=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    rows=st.integers(1, 3),
    start=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_ranks_and_accumulation_only_divide_the_batch(world, accumulate, rows, start, seed):
    batch, n, steps = 2 * world * accumulate * rows, 101 * 2, 6
    samplers = [
        StepBatchSampler(Shuffle(n, 2), batch, seed, start, steps, rank, world, accumulate) for rank in range(world)
    ]
    assert all(len(sampler) == steps * accumulate for sampler in samplers)
    micro = list(zip(*samplers, strict=True))  # [step * accumulate][rank] -> list of keys
    assert len(micro) == (steps - start) * accumulate
    for k in range(start, steps):
        parts = micro[(k - start) * accumulate : (k - start + 1) * accumulate]
        keys = [key for ranks in parts for part in ranks for key in part]
        assert keys == [
            (k, row, index) for row, index in enumerate(batch_indices(Shuffle(n, 2), seed, k, batch).tolist())
        ]


def test_iteration_asks_where_the_run_stands():
    now = 0
    sampler = StepBatchSampler(Shuffle(10), 2, seed=0, start_step=lambda: now, num_steps=4)
    first = list(sampler)
    now = 3
    assert list(sampler) == first[3:]


def test_places_are_uniform_over_epochs():
    n, epochs = 7, 6000
    epoch = np.repeat(np.arange(epochs), n)
    image = permute(np.tile(np.arange(n), epochs), epoch, n, seed=3).reshape(epochs, n)
    counts = np.stack([np.bincount(image[:, place], minlength=n) for place in range(n)])
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < 75  # (n - 1)^2 = 36 degrees of freedom: 99.98 % of random tables lie below
    pairs = np.bincount(image[:, 0] * n + image[:, 1], minlength=n * n).reshape(n, n)
    off = pairs[~np.eye(n, dtype=bool)]
    assert ((off - epochs / 42) ** 2 / (epochs / 42)).sum() < 90  # 41 degrees of freedom


def test_shuffle_mixes_far_and_epochs_and_seeds_differ():
    n = 100_000
    first = permute(np.arange(n), np.zeros(n, np.int64), n, seed=0)
    correlation = lambda a, b: abs(np.corrcoef(a, b)[0, 1])  # noqa: E731
    assert correlation(first, np.arange(n)) < 0.02
    assert correlation(first[1:], first[:-1]) < 0.02
    assert correlation(first, permute(np.arange(n), np.ones(n, np.int64), n, seed=0)) < 0.02
    assert correlation(first, permute(np.arange(n), np.zeros(n, np.int64), n, seed=1)) < 0.02


def test_huge_sets_need_no_table():
    n = 129_000_000
    late = batch_indices(Shuffle(n), seed=0, step=100_000, batch_size=1680)
    assert late.dtype == np.int64 and late.shape == (1680,) and len(set(late.tolist())) == 1680
    assert late.min() >= 0 and n > late.max() > 0.99 * n
    assert (late == batch_indices(Shuffle(n), 0, 100_000, 1680)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(batch_size=8, num_samples=7), ["8", "7"]),
        (dict(batch_size=0, num_samples=7), ["0", "7"]),
        (dict(batch_size=3, num_samples=8, group=2), ["group=2", "3"]),
        (dict(batch_size=4, num_samples=7, group=2), ["group=2", "7"]),
    ],
)
def test_sizes_that_cannot_be_are_named(arguments, words):
    with pytest.raises(ValueError) as error:
        batch_indices(Shuffle(arguments["num_samples"], arguments.get("group", 1)), 0, 0, arguments["batch_size"])
    assert all(word in str(error.value) for word in words)


def test_world_and_accumulation_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match=r"batch of 10 .* 4 ranks x 1 "):
        StepBatchSampler(Shuffle(100), 10, 0, 0, 1, world_size=4)
    with pytest.raises(ValueError, match="12 / 4 = 3 rows would split groups of 2"):
        StepBatchSampler(Shuffle(100, 2), 12, 0, 0, 1, accumulate=4)


def test_row_rng_is_keyed_by_all_three():
    draw = {key: row_rng(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(set(draw.values())) == 4
    assert draw[0, 1, 0] == row_rng(0, 1, 0).random()


@pytest.mark.parametrize("group", [0, -2])
def test_a_group_of_no_samples_is_refused(group):
    with pytest.raises(ValueError, match=f"group={group} must be at least 1"):
        Shuffle(4, group)
