"""Decides which samples make up a batch, as a function of (seed, step) and of nothing else.

The positions of a run are numbered 0, 1, 2, ... and global batch k holds the positions k*B to k*B + B - 1. An order
says which sample is at a position: for files, position p lies in epoch p // n at place p % n, and each epoch is a
seeded permutation of the n samples. The permutation is computed place by place (a keyed Feistel network, cycle-walked
into range), so no list of n numbers is ever made and step 100000 costs what step 0 costs. Ranks and workers only divide
a batch among them: its content is the same for any number of either. Orders of shards and of mixtures: mixing.py.

A batch that spans the end of an epoch may hold a sample twice, once from each epoch.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

ROUNDS = 6  # pairs of half-rounds; three pairs already look random, six leave room


class Shuffle:
    """Permutes all samples anew in every epoch, for data that is quick to read at any place.

    With group = g, blocks of g consecutive samples are permuted and stay whole and in order: with g = 2, samples 2k
    and 2k + 1 share a batch. Raises ValueError if `group` is below 1 or does not divide the number of samples.
    """

    def __init__(self, num_samples: int, group: int = 1):
        if group < 1:
            raise ValueError(f"group={group} must be at least 1; 1 mixes samples one by one")
        if num_samples % group:
            raise ValueError(f"group={group} must divide the {num_samples} samples")
        self.num_samples, self.group = num_samples, group

    def __len__(self) -> int:
        return self.num_samples

    def at(self, seed: int, position_B: np.ndarray) -> np.ndarray:
        """The samples at these positions of the run: int64 [B] -> int64 [B], each in [0, len)."""
        epoch_B, place_B = np.divmod(position_B, self.num_samples)
        block_B = permute(place_B // self.group, epoch_B, self.num_samples // self.group, seed)
        return block_B * self.group + place_B % self.group


class Order(Protocol):
    """Maps the positions of a run to samples. From each multiple of `group` on, `group` positions hold one whole
    group of samples."""

    group: int

    def __len__(self) -> int: ...

    def at(self, seed: int, position_B: np.ndarray) -> np.ndarray: ...


def batch_indices(order: Order, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Indices of the samples of global batch `step`: int64 [batch_size], each in [0, len(order)).

    Raises ValueError if the batch is larger than the data set, or splits a group.
    """
    _check_batch(batch_size, order)
    return order.at(seed, np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64))


def permute(place_B: np.ndarray, epoch_B: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Where `place` lands in the permutation of range(size) keyed by (seed, epoch): int64 [B] -> int64 [B].

    The Feistel network permutes range(2**bits), the smallest that holds range(size), so less than twice as many
    numbers. A result outside range(size) is permuted again until it falls inside: together a permutation of
    range(size).
    """
    bits = max(size - 1, 0).bit_length()
    keys_BR = _round_keys(seed, epoch_B)
    value_B = _feistel(place_B.astype(np.uint64), keys_BR, bits)
    while (outside_B := value_B >= size).any():
        value_B[outside_B] = _feistel(value_B[outside_B], keys_BR[outside_B], bits)
    return value_B.astype(np.int64)


def row_rng(seed: int, step: int, row: int) -> np.random.Generator:
    """The generator of global row `row` of batch `step`: draws its caption, then its augmentation."""
    return np.random.default_rng((seed, step, row))


class StepBatchSampler(Sampler[list[tuple[int, int, int]]]):
    """The micro-batches of one rank, each a list of keys (step, global row, sample index).

    Micro-batch a of a step takes rows [a*M, (a+1)*M) of the global batch, M = batch_size / accumulate, and
    rank r the r-th of `world_size` equal runs of them: gathering a micro-batch over the ranks gives the rows
    in order.

    `len()` counts the micro-batches of the WHOLE run, because a trainer that resumes adds those already done
    to its counter. Iteration starts at `start_step`: a number, or a function asked at each `iter()` for where
    the run stands now.

    Raises ValueError if batch_size is not a multiple of world_size * accumulate, if a group would be split
    between two micro-batches, and wherever `batch_indices` does.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        seed: int,
        start_step: int | Callable[[], int],
        num_steps: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ):
        _check_batch(batch_size, order)
        if batch_size % (world_size * accumulate):
            raise ValueError(
                f"the global batch of {batch_size} does not divide over {world_size} ranks x {accumulate}"
                f" accumulated micro-batches = {world_size * accumulate}: make batch_size a multiple of that"
            )
        if (batch_size // accumulate) % order.group:
            raise ValueError(
                f"micro-batches of {batch_size} / {accumulate} = {batch_size // accumulate} rows would split"
                f" groups of {order.group}: make batch_size a multiple of {accumulate * order.group}"
            )
        self.order, self.batch_size, self.seed = order, batch_size, seed
        self.start_step, self.num_steps = start_step, num_steps
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate

    def __len__(self) -> int:
        return self.num_steps * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        start = self.start_step() if callable(self.start_step) else self.start_step
        for step in range(start, self.num_steps):
            index_B = batch_indices(self.order, self.seed, step, self.batch_size)
            row_AWM = np.arange(self.batch_size).reshape(self.accumulate, self.world_size, -1)
            for row_M in row_AWM[:, self.rank]:
                yield [(step, row, index) for row, index in zip(row_M.tolist(), index_B[row_M].tolist())]


def _check_batch(batch_size: int, order: Order) -> None:
    if not 0 < batch_size <= len(order):
        raise ValueError(
            f"data.batch_size={batch_size} must be from 1 to {len(order)}, the number of training examples: a batch "
            "holds each example once"
        )
    if batch_size % order.group:
        raise ValueError(f"group={order.group} must divide batch_size={batch_size}")


def _round_keys(seed: int, epoch_B: np.ndarray) -> np.ndarray:
    """One 64-bit key per position and half-round, uint64 [B, 2 * ROUNDS]."""
    epoch_key_B = _mix(_mix(np.full(1, seed % 2**64, np.uint64)) + epoch_B.astype(np.uint64))
    return _mix(epoch_key_B[:, None] + np.arange(1, 2 * ROUNDS + 1, dtype=np.uint64))


def _feistel(value_B: np.ndarray, keys_BR: np.ndarray, bits: int) -> np.ndarray:
    """A bijection of range(2**bits), uint64 [B]: each half is xored with a hash of the other, in turn."""
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64(2 ** (bits // 2) - 1), np.uint64(2 ** (bits - bits // 2) - 1)
    high_B, low_B = value_B >> low_bits, value_B & low_mask
    for r in range(0, 2 * ROUNDS, 2):
        high_B = high_B ^ (_mix(low_B + keys_BR[:, r]) & high_mask)
        low_B = low_B ^ (_mix(high_B + keys_BR[:, r + 1]) & low_mask)
    return (high_B << low_bits) | low_B


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele et al., 2014), uint64 -> uint64: every input bit reaches every output bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
