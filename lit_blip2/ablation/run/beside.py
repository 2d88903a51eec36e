"""Reuses step runs of sweeps beside this one: they are copied with their checkpoints, and not run again.

A run is the same if it has the same key (settings, named files, code that it uses, and steps before it), its record
still holds, the libraries have the same versions, and all else that it read is unchanged. So two ablations that start
from the same stage 1 train it once, if both write into one folder, by default `sweeps/`.
"""

import os
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lit_blip2.ablation.folder import Folder, read, write
from lit_blip2.ablation.run.made import agrees
from lit_blip2.ablation.run.provenance import other_versions
from lit_blip2.ablation.run.reads import has_changed
from lit_blip2.ablation.schema import Done, Metrics, Parents, Plan, StepRun
from lit_blip2.contents import DataError
from lit_blip2.links import check_links
from lit_blip2.terminal import printable
from lit_blip2.whole_files import write_json

OWN = ("done.json", "parents.json")  # hold names of runs, which differ between sweeps
LOCKS = ".*.lock"
PART = "copying"


class Same(NamedTuple):
    """A run of another sweep. names: of the runs behind it, its name there -> its name here."""

    folder: Folder
    name: str
    done: Done
    names: dict[str, str]


def look(plan: Plan, folder: Folder) -> tuple[dict[str, Same], list[str]]:
    """Step run of which this folder has nothing yet -> the same run of another sweep. Also a line for each sweep that
    has some, and for each that cannot be read."""
    here = {run.key: name for name, run in plan.steps.items()}
    wanted = {key for key, name in here.items() if not folder.run(name).exists()}
    found: dict[str, Same] = {}
    faults = []
    for file in sorted(folder.root.parent.glob("*/plan.json")):
        other = Folder(file.parent)
        if other.root.resolve() == folder.root.resolve():
            continue
        try:
            same = _same_runs(other, wanted, here)
        except (DataError, OSError) as error:
            faults.append(f"nothing is taken from {other.root}: {str(error).splitlines()[0]}")
        else:
            found |= {name: each for name, each in same.items() if name not in found}
    counts = Counter(str(each.folder.root) for each in found.values())
    told = [
        f"{n} of {len(plan.steps)} step runs are taken from {root}, which has run the same"
        for root, n in counts.items()
    ]
    return found, [printable(line) for line in told + faults]


def take_beside(plan: Plan, folder: Folder) -> list[str]:
    """Copy what `look` finds, each run whole or not at all. Returns the lines that say so."""
    found, told = look(plan, folder)
    for name, same in found.items():
        part = Folder(folder.root / PART)
        shutil.rmtree(part.root, ignore_errors=True)  # left by a sweep that was killed
        source, ignored = same.folder.run(same.name), shutil.ignore_patterns(*OWN, LOCKS)
        shutil.copytree(source, part.run(name), copy_function=_copy, ignore=ignored)
        if (parents := read(same.folder.parents(same.name), Parents)) is not None:
            write_json(part.parents(name), _renamed(parents.root, same.names))
        write(part.done(name), same.done.model_copy(update={"parents": _renamed(same.done.parents, same.names)}))
        folder.run(name).parent.mkdir(parents=True, exist_ok=True)
        part.run(name).rename(folder.run(name))
        shutil.rmtree(part.root)
    return told


def _same_runs(other: Folder, wanted: set[str], here: dict[str, str]) -> dict[str, Same]:
    """Name here -> run there. Raises DataError if a file is damaged, or a link leads out of the folder."""
    known = read(other.plan, Plan)
    runs = {here[run.key]: run for run in known.steps.values() if run.key in wanted} if known else {}
    if not runs or other_versions(known.versions):
        return {}
    check_links(other.root)
    names = {name: here[run.key] for name, run in known.steps.items() if run.key in here}
    done = {name: _done(run, other) for name, run in runs.items()}
    return {name: Same(other, run.name, done[name], names) for name, run in runs.items() if done[name]}


def _done(run: StepRun, other: Folder) -> Done | None:
    """The record of a run, if it has ended well and its record still holds; else None."""
    done = read(other.done(run.name), Done)
    read(other.metrics(run.name), Metrics)  # raises for a damaged one
    if done is None or done.key != run.key or not agrees(run, other, done):
        return None
    return None if any(has_changed(path, told) for path, told in done.reads.items()) else done


def _renamed(parents: dict[str, int], names: dict[str, str]) -> dict[str, int]:
    return {names[name]: steps for name, steps in parents.items() if name in names}


def _copy(source: str, target: str) -> None:
    """Copy a file. A checkpoint is linked if possible, because it is large and never written in place."""
    if Path(source).suffix == ".ckpt":
        with suppress(OSError):
            return os.link(source, target)
    shutil.copy2(source, target)
