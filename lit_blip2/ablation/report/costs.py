"""What a sweep cost, and what the steps that cells share have saved.

A step that several cells need is run once. Each of them is charged all of it "alone"; the sweep has spent it once.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from lit_blip2.ablation.report.records import WAITING, Cell, Step, Sweep


@dataclass(frozen=True)
class CellCost:
    """A cell's steps as if it were alone, as far as they have ended; None where nothing is known."""

    seconds: float | None
    shared_seconds: float | None  # of these, in steps that other cells use too
    steps: int | None
    peak_memory_gib: float | None
    ended: int
    planned: int


@dataclass(frozen=True)
class Total:
    """In seconds. without_sharing counts a step once for each cell that has ended with it, and once if none has."""

    spent: float
    without_sharing: float
    repeated: int  # steps that took more than one attempt

    @property
    def not_spent(self) -> float:
        return self.without_sharing - self.spent


def cell_cost(sweep: Sweep, cell: Cell) -> CellCost:
    ended = [step for step in sweep.steps_of(cell) if step.done]
    return CellCost(
        seconds=_sum(step.done.seconds for step in ended),
        shared_seconds=_sum(step.done.seconds if sweep.users[step.name] > 1 else 0.0 for step in ended),
        steps=_sum(step.done.steps for step in ended),
        peak_memory_gib=max((m for step in ended if (m := step.done.peak_memory_gib) is not None), default=None),
        ended=len(ended),
        planned=len(cell.steps),
    )


def total_cost(sweep: Sweep) -> Total:
    users = Counter(name for cell in sweep.cells if cell.state != WAITING for name in set(cell.steps))
    ended = [step for step in sweep.steps.values() if step.done]
    return Total(
        spent=sum(_seconds(step) for step in ended),
        without_sharing=sum(_seconds(step) * max(1, users[step.name]) for step in ended),
        repeated=sum(step.done.attempts > 1 for step in ended),
    )


def wall(cell: Cell) -> float | None:
    """Seconds from the cell's begin to its end, waiting for shared steps included; None while it has not ended."""
    if not (cell.began and cell.ended):
        return None
    return (datetime.fromisoformat(cell.ended) - datetime.fromisoformat(cell.began)).total_seconds()


def _seconds(step: Step) -> float:
    return step.done.seconds or 0.0


def _sum(values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
