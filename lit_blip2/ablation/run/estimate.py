"""Estimates how long steps take from records of finished ones: in this sweep, beside it, and kept of it.

Steps count as alike if they have the same name, number of optimiser steps, data, batch size, image encoder and language
model. Other things that an axis changes, such as an objective, are ignored: the estimate is a mean over cells.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.schema import Done, Plan, StepRun
from lit_blip2.config import Experiment
from lit_blip2.contents import DataError


class Size(NamedTuple):
    """What the time of a step mainly depends on."""

    step: str
    steps: int | None
    data: str | None
    batch: int | None
    encoder: str | None
    language: str | None


def size_of(run: StepRun) -> Size:
    of = Experiment(run.config, run.name)
    return Size(
        run.step,
        run.max_steps,
        of.data.get("root"),
        of.data.get("batch_size"),
        of.vision.get("name"),
        of.language.get("name"),
    )


def known_seconds(folders: Iterable[Folder]) -> dict[Size, float]:
    """Mean seconds of step runs that have ended well, by size, from the first folder that has some of that size. What
    cannot be read is skipped: other code that reads it reports it."""
    known: dict[Size, float] = {}
    for folder in folders:
        try:
            known = _seconds_in(folder) | known
        except (DataError, OSError):
            continue
    return known


def folders_of(folder: Folder, kept: Folder | None = None) -> list[Folder]:
    """Where to look: the sweep itself, those beside it, and what is kept of it."""
    beside = sorted(file.parent for file in folder.root.parent.glob("*/plan.json") if file.parent != folder.root)
    return [folder, *map(Folder, beside), *([kept] if kept else [])]


def seconds_of(runs: Iterable[StepRun], known: Mapping[Size, float]) -> tuple[float, str]:
    """Total seconds of these runs, one after the other, and the step of the first run of unknown time; "" if none."""
    sizes = [size_of(run) for run in runs]
    unknown = [size.step for size in sizes if size not in known]
    return sum(known.get(size, 0.0) for size in sizes), next(iter(unknown), "")


def _seconds_in(folder: Folder) -> dict[Size, float]:
    seconds: dict[Size, list[float]] = {}
    plan = read(folder.plan, Plan)
    for run in plan.steps.values() if plan else ():
        if done := read(folder.done(run.name), Done):
            seconds.setdefault(size_of(run), []).append(done.seconds)
    return {size: sum(each) / len(each) for size, each in seconds.items()}
