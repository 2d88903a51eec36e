"""How the benchmarks measure: times of interleaved sides, and matrix work."""

import statistics
import time
from collections.abc import Callable, Mapping

from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 2  # turns: after them a step's page faults have fallen to a tenth


def interleave(
    sides: Mapping[str, Callable[[], object]], repetitions: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Seconds of each side, one list per side; sides take turns, the order turned round each time.

    The first turns (`warm_up`), not counted, pay for what happens once: above all for the memory that a process takes
    from the system. What else the machine does falls on all sides alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm_up, repetitions):
        for name in list(sides) if turn % 2 else reversed(sides):
            start = time.perf_counter()
            sides[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest of the ratios turn by turn."""
    ratios = [a / b for a, b in zip(slow, fast)]
    return statistics.median(ratios), min(ratios), max(ratios)


def gflop(step: Callable[[], object]) -> float:
    """Floating point operations of the matrix products of `step` (a multiply-add is two), in 1e9."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9
