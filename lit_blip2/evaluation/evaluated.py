"""What metrics were measured on. It is recorded among the metrics.

evaluated/test_images says how many rows of a split were evaluated, for each unit, and evaluated/test_images_share which
share of its rows that is. evaluated/random_language_model is 1 if the language model had random weights.
"""

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from lit_blip2.contents import DataError, read_object, shown

WAY_OUT = "remove it; a test, or a validation, writes it again"
METRICS, PREFIX = "metrics.json", "evaluated/"
RANDOM = f"{PREFIX}random_"  # followed by a part of the network
# Optimiser steps of the weights that were tested, or validated.
TESTED_STEP, VALIDATED_STEP = STEPS = ("evaluated/test_step", "evaluated/val_step")
UNITS = {"caption": "images", "vqa": "questions", "binding": "pairs"}  # task -> the unit of a row of its table
# The first part of a metric's name -> the unit that it is measured on, unknown for other names
MEASURED_ON = {
    "caption": "images", "retrieval": "images", "loss": "images", "probe": "images",
    "vqa": "questions", "pope": "questions", "binding": "pairs",
}  # fmt: skip


def read_metrics(file: Path) -> dict[str, float | None]:
    """A run's metrics, name -> number, or None for a number that is not finite. Raises FileNotFoundError, or
    DataError."""
    metrics = read_object(file)
    if wrong := [name for name, value in metrics.items() if type(value) not in (int, float, type(None))]:
        raise DataError(f"{file}: {wrong[0]} is {shown(metrics[wrong[0]])}, where a number is wanted: {WAY_OUT}")
    return {name: value if value is not None and isfinite(value) else None for name, value in metrics.items()}


class Evaluated(NamedTuple):
    """What a metric was measured on.

    split: val or test. share: share of the split's rows, the smallest if there are several units; 1.0 is the whole
    split. rows: (unit, number of rows). random: parts of the network with random weights.
    """

    split: str
    share: float
    rows: tuple[tuple[str, int], ...]
    random: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """`test`, or `3.2 % of test`."""
        return self.split if self.share >= 1 else f"{100 * self.share:.3g} % of {self.split}"

    def __str__(self) -> str:
        random = f", with RANDOM weights of the {' and the '.join(self.random)}, for trials" if self.random else ""
        return f"{self.part} ({', '.join(f'{number:,} {unit}' for unit, number in self.rows)}){random}"


def step_in(metrics: Mapping[str, float | None], name: str) -> int | None:
    """The optimiser step under a name of STEPS in metrics; None if there is none."""
    step = metrics.get(name)
    return None if step is None else int(step)


def names(split: str, tasks: Iterable[str]) -> set[str]:
    """Names of the entries that an evaluation of these tasks records."""
    found = {name for task in tasks for name in _names(split, UNITS[task])}
    return found | ({TESTED_STEP if split == "test" else VALIDATED_STEP} if found else set())


def told(split: str, rows: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, float]:
    """The entries of an evaluation. rows: task -> rows that were evaluated. sizes: task -> all its rows."""
    found = {}
    for task, number in rows.items():
        count, share = _names(split, UNITS[task])
        found[count] = float(number)
        if task in sizes:
            found[share] = number / sizes[task]
    return found


def least_share(split: str, metrics: Mapping[str, float], tasks: Iterable[str]) -> float:
    """The smallest share of a task's rows in the split that was evaluated."""
    return min((metrics.get(_names(split, UNITS[task])[1], 1.0) for task in tasks), default=1.0)


def evaluated(command: str, metrics: Mapping[str, float | None], metric: str) -> Evaluated | None:
    """What a metric of a run with this metrics.json was measured on; None if that is not recorded."""
    split = "test" if command == "test" else "val"
    of_all = metrics.get(f"{PREFIX}{split}_share")  # older runs record only the smallest share
    unit = unit_of(metric)
    found = {unit: metrics.get(_names(split, unit)[0]) for unit in ([unit] if unit else UNITS.values())}
    rows = tuple((unit, int(number)) for unit, number in found.items() if number is not None)
    shares = [metrics.get(_names(split, unit)[1], of_all) for unit, _ in rows]
    random = tuple(name.removeprefix(RANDOM).replace("_", " ") for name in metrics if name.startswith(RANDOM))
    return Evaluated(split, min(shares), rows, random) if rows and None not in shares else None


def random_marks(parts: Iterable[str]) -> dict[str, float]:
    """Entries for a network with these random parts. The first two words of a part tell its kind."""
    return {RANDOM + "_".join(part.split()[:2]): 1.0 for part in parts}


def is_tested(metrics: Iterable[str]) -> bool:
    """Whether metrics of a test are among these."""
    return any(name.startswith(f"{PREFIX}test_") for name in metrics)


def unit_of(name: str) -> str | None:
    """The unit that a metric is measured on, or whose rows or share an entry records; None if unknown. A name of STEPS
    is a unit of its own."""
    if name in STEPS:
        return name
    told = name.removeprefix(PREFIX).split("_")[1] if name.startswith(PREFIX) else None
    return told or MEASURED_ON.get(name.partition("/")[0])


def _names(split: str, unit: str) -> tuple[str, str]:
    """Names of the entries for the number of rows and for their share."""
    return f"{PREFIX}{split}_{unit}", f"{PREFIX}{split}_{unit}_share"
