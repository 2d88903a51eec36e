"""A fit that starts over does so in an empty folder: what an attempt before it has left there is kept elsewhere."""

from itertools import count
from pathlib import Path

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.schema import StepRun

STAY = ("log.txt", "attempts.txt")  # of all attempts


def set_aside(run: StepRun, folder: Folder) -> Path | None:
    """Move a run's files to OUT/before/NUMBER/, of which nothing is read; that folder, or None where there were none.
    An end that comes between two files loses nothing: the next attempt moves the others."""
    left = [each for each in sorted(folder.run(run.name).glob("*")) if each.name not in STAY]
    if not left:
        return None
    place = next(each for number in count(1) if not (each := folder.before(run.name, number)).exists())
    place.mkdir(parents=True)
    for each in left:
        each.rename(place / each.name)
    return place
