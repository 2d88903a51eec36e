"""Which split a metric was measured on, and how much of it."""

from collections.abc import Mapping
from typing import NamedTuple

UNITS = ("images", "questions", "pairs")


class Evaluated(NamedTuple):
    """split: val or test. share: of its rows; 1.0 is the whole split. rows: of each of UNITS that there is."""

    split: str
    share: float
    rows: tuple[tuple[str, int], ...]

    @property
    def part(self) -> str:
        """`test`, or `3.2 % of test`."""
        return self.split if self.share >= 1 else f"{100 * self.share:.3g} % of {self.split}"

    def __str__(self) -> str:
        return f"{self.part} ({', '.join(f'{number:,} {unit}' for unit, number in self.rows)})"


def evaluated(command: str, metrics: Mapping[str, float | None]) -> Evaluated | None:
    """What a run with this metrics.json was evaluated on; None where it does not say."""
    split = "test" if command == "test" else "val"
    share = metrics.get(f"evaluated/{split}_share")
    found = {unit: metrics.get(f"evaluated/{split}_{unit}") for unit in UNITS}
    rows = tuple((unit, int(number)) for unit, number in found.items() if number is not None)
    return None if share is None else Evaluated(split, share, rows)
