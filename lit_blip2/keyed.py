"""Random numbers that depend on (seed, step, global row) alone, so that any number of ranks draws the same. Dropout's
numbers, which torch draws by itself, depend on (seed, step, micro-batch, rank)."""

import numpy as np
import torch
from torch import Tensor


def row_uniforms(seed: int, step: int, rows_B: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 [B, count], for global rows `rows_B` (int64, on the CPU) of batch `step`.

    Each pair of numbers has a generator of its own, so a number does not depend on how many follow it. Raises
    ValueError for a seed or step outside 0..2**64 - 1, which would draw the same numbers as another one.
    """
    key = np.array([check_seed(seed), check_seed(step, "step")], dtype=np.uint64)  # a list may go through float64
    law, rows = np.random.Philox(key=key), int(rows_B.max()) + 1
    pairs = [np.random.Generator(law.jumped(pair)).random((rows, 2)) for pair in range(-(-count // 2))]
    return torch.from_numpy(np.concatenate([np.empty((rows, 0)), *pairs], axis=1)[:, :count])[rows_B]


def step_uniform(seed: int, step: int) -> float:
    """One uniform number in [0, 1) for the whole batch `step`: the same on all ranks, micro-batches and rows. No row
    draws from its generator. Raises ValueError as row_uniforms does."""
    key = np.array([check_seed(seed), check_seed(step, "step")], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key).jumped(2**64)).random()  # rows jump by their pairs


def seed_dropout(seed: int, step: int, micro_batch: int, rank: int) -> None:
    """Seed torch's own generators, which dropout draws from, for this part of step `step`. A resumed run then drops the
    same units as an unbroken one."""
    state = np.random.SeedSequence([check_seed(seed), step, micro_batch, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def check_seed(seed: int, name: str = "seed") -> int:
    """The seed itself. Raises ValueError if it does not fit into 64 bits: it would act as another one."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name}={seed} must lie in 0..2**64 - 1")
    return seed
