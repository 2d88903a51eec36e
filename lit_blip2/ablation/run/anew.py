"""Gives a fit that starts over an empty folder: what an earlier attempt has left there is kept elsewhere."""

from itertools import count
from pathlib import Path

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.schema import StepRun

STAY = ("log.txt", "attempts.txt")  # written by all attempts


def set_aside(run: StepRun, folder: Folder) -> Path | None:
    """Move a run's files to OUT/before/NUMBER/, from which nothing is read. Returns that folder, or None if there were
    no files. A process killed between two files loses nothing: the next attempt moves the others."""
    left = [each for each in sorted(folder.run(run.name).glob("*")) if each.name not in STAY]
    if not left:
        return None
    place = next(each for number in count(1) if not (each := folder.before(run.name, number)).exists())
    place.mkdir(parents=True)
    for each in left:
        each.rename(place / each.name)
    return place
