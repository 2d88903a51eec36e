"""Training orders for shards and for mixtures. Like `order.Shuffle`, they are functions of (seed, position) alone.

Shape suffixes: B positions, S shards, W windows.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from lit_blip2.data.batches.order import Order, permute

CYCLE = 1024  # after this many groups a mixture has its proportions
MOST_SOURCES = 32  # so that the largest one has a slot left in every cycle
SHARDS, WITHIN, MEMBER = 1 << 40, 2 << 40, 3 << 40  # added to a seed, so that each use draws other numbers


class WindowShuffle:
    """Every epoch visits all samples of all shards once, `window` shards at a time.

    The shards are permuted anew in each epoch and cut into windows of at least `window` of them; within a window all
    samples are permuted. So only few shards of a disk or bucket are read at a time, and the negatives of a batch come
    from several shards.
    """

    group = 1

    def __init__(self, shard_sizes_S: Sequence[int], window: int = 8):
        if window < 1:
            raise ValueError(f"window={window} must be at least 1 shard")
        self.sizes_S = np.asarray(shard_sizes_S, dtype=np.int64)
        self.num_windows = max(1, len(self.sizes_S) // window)
        self.start_S = np.cumsum(self.sizes_S) - self.sizes_S
        self.num_samples, self.window = int(self.sizes_S.sum()), window
        self._epoch = lru_cache(2)(self._lay_out)  # a batch lies in one epoch, or in two

    def __reduce__(self):  # the cache stays in its process
        return WindowShuffle, (self.sizes_S, self.window)

    def __len__(self) -> int:
        return self.num_samples

    def at(self, seed: int, position_B: np.ndarray) -> np.ndarray:
        """The samples at these positions of the run, numbered shard by shard: int64 [B] -> int64 [B]."""
        epoch_B, place_B = np.divmod(position_B, self.num_samples)
        found_B = np.empty_like(place_B)
        for epoch in np.unique(epoch_B):
            shard_S, first_S, bound_W = self._epoch(seed, int(epoch))
            here_B = epoch_B == epoch
            window_B = np.searchsorted(bound_W, place_B[here_B], side="right") - 1
            mixed_B = place_B[here_B]
            for window in np.unique(window_B):
                one_B = window_B == window
                start, end = bound_W[window], bound_W[window + 1]
                key_B = np.full(one_B.sum(), epoch * self.num_windows + window)
                mixed_B[one_B] = start + permute(mixed_B[one_B] - start, key_B, int(end - start), seed + WITHIN)
            place_S = np.searchsorted(first_S, mixed_B, side="right") - 1
            found_B[here_B] = self.start_S[shard_S[place_S]] + mixed_B - first_S[place_S]
        return found_B

    def _lay_out(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The layout of an epoch: its shards in order [S], where each begins [S], the bounds of its windows [W + 1]."""
        count = len(self.sizes_S)
        shard_S = permute(np.arange(count), np.full(count, epoch), count, seed + SHARDS)
        ends_S = np.cumsum(self.sizes_S[shard_S])
        cuts_W = np.arange(self.num_windows + 1) * count // self.num_windows
        return shard_S, ends_S - self.sizes_S[shard_S], np.concatenate([[0], ends_S])[cuts_W]


class Mix:
    """Mixes several orders in exact proportions.

    Positions come in cycles of CYCLE groups. After each cycle, a source has had its share of all groups so far, to
    less than one group (the source of the largest share: to less than one for each other source). A permutation keyed
    by the cycle deals its slots to the sources. Samples are numbered source by source: those of source i follow those
    of the i sources before it.

    Args:
        orders: one for each source, all with the same group size.
        weights: one for each, in any unit; None: the sizes, so that every sample of all sources comes equally often.
    Raises:
        ValueError: a weight that is not positive and finite, another number of weights than of orders, mixed groups,
            more sources than MOST_SOURCES.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float] | None = None):
        sizes = [len(order) for order in orders]
        weights = sizes if weights is None else list(weights)
        if len(orders) > MOST_SOURCES:
            raise ValueError(f"{len(orders)} sources: at most {MOST_SOURCES} can be mixed, join some of them")
        if len(weights) != len(orders):
            raise ValueError(f"{len(weights)} weights for {len(orders)} sources")
        if wrong := [weight for weight in weights if not 0 < weight < float("inf")]:
            raise ValueError(f"weights {wrong} must be positive: leave a source out instead of giving it none")
        if len(groups := {order.group for order in orders}) > 1:
            raise ValueError(f"sources in groups of {sorted(groups)} cannot be mixed: give them one group")
        self.orders, (self.group,) = list(orders), groups
        self.start = np.cumsum([0, *sizes])
        self.largest = int(np.argmax(weights))
        total = sum(map(Fraction, weights))
        self.shares = [Fraction(weight) / total for weight in weights]
        self._cycle, self.weights = lru_cache(16)(self._counts_before), weights

    def __reduce__(self):  # the cache stays in its process
        return Mix, (self.orders, self.weights)

    def __len__(self) -> int:
        return int(self.start[-1])

    def at(self, seed: int, position_B: np.ndarray) -> np.ndarray:
        """The samples at these positions of the run: int64 [B] -> int64 [B]."""
        unit_B, within_B = np.divmod(position_B, self.group)
        cycle_B, slot_B = np.divmod(unit_B, CYCLE)
        slot_B = permute(slot_B, cycle_B, CYCLE, seed)
        source_B, turn_B = np.empty_like(slot_B), np.empty_like(slot_B)
        for cycle in np.unique(cycle_B).tolist():
            one_B = cycle_B == cycle
            before, after = self._cycle(cycle), self._cycle(cycle + 1)
            ends = np.cumsum(after - before)
            source_B[one_B] = np.searchsorted(ends, slot_B[one_B], side="right")
            turn_B[one_B] = (after - ends)[source_B[one_B]] + slot_B[one_B]
        found_B = np.empty_like(slot_B)
        for source in np.unique(source_B).tolist():
            one_B = source_B == source
            place_B = turn_B[one_B] * self.group + within_B[one_B]
            found_B[one_B] = self.start[source] + self.orders[source].at(seed + (source + 1) * MEMBER, place_B)
        return found_B

    def _counts_before(self, cycle: int) -> np.ndarray:
        """Number of groups of each source before a cycle, rounded down; the largest source gets the rest."""
        counts = [cycle * CYCLE * share.numerator // share.denominator for share in self.shares]
        counts[self.largest] = cycle * CYCLE - (sum(counts) - counts[self.largest])
        return np.array(counts)
