"""What a sweep cost, and what sharing steps has saved.

A step that several cells need is run once. "Alone" charges all of it to each of them; the sweep has spent it once.
"""

from collections import Counter
from dataclasses import dataclass

from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.schema import Cell, Record


@dataclass(frozen=True)
class CellCost:
    """The cost of a cell's ended steps, as if it were alone; None where nothing is known."""

    seconds: float | None
    shared_seconds: float | None  # part of `seconds`, in steps that other cells use too
    steps: int | None
    peak_memory_gib: float | None
    ended: int
    planned: int


@dataclass(frozen=True)
class SweepCost:
    """In seconds. without_sharing counts a step once for each cell that has ended with it, and once if none has."""

    spent: float
    without_sharing: float
    repeated: int  # steps that took more than one attempt

    @property
    def not_spent(self) -> float:
        return self.without_sharing - self.spent


def cell_cost(sweep: Sweep, cell: Cell) -> CellCost:
    ended = {name: sweep.done[name] for name in cell.steps if name in sweep.done}
    shared = [done.seconds if sweep.users[name] > 1 else 0.0 for name, done in ended.items()]
    steps = [done.steps for done in ended.values() if done.steps is not None]
    return CellCost(
        seconds=sum(done.seconds for done in ended.values()) if ended else None,
        shared_seconds=sum(shared) if ended else None,
        steps=sum(steps) if steps else None,
        peak_memory_gib=max((done.peak_memory_gib for done in ended.values()), default=None),
        ended=len(ended),
        planned=len(cell.steps),
    )


def sweep_cost(sweep: Sweep) -> SweepCost:
    users = Counter(name for cell in sweep.cells if cell.name in sweep.records for name in set(cell.steps))
    return SweepCost(
        spent=sum(done.seconds for done in sweep.done.values()),
        without_sharing=sum(done.seconds * max(1, users[name]) for name, done in sweep.done.items()),
        repeated=sum(done.attempts > 1 for done in sweep.done.values()),
    )


def wall(record: Record) -> float:
    """Seconds from a cell's beginning to its end, waiting for shared steps included."""
    return (record.ended - record.began).total_seconds()
