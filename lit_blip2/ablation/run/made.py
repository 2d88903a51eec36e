"""How many optimiser steps a run has made, from which steps of other runs, and whether its records still hold."""

from collections.abc import Callable

from lit_blip2.ablation.folder import Folder, SweepError, read
from lit_blip2.ablation.reached import parents_read
from lit_blip2.ablation.schema import Done, Metrics, Parents, StepRun
from lit_blip2.evaluation.evaluated import VALIDATED_STEP, step_in
from lit_blip2.runs import Standing, standing, step_of
from lit_blip2.whole_files import write_json

Look = Callable[[str], Standing | None]  # step run -> the step of its newest checkpoint


def steps_made(run: StepRun, folder: Folder) -> int | None:
    """The step of a fit's checkpoint; if it writes none, of its last validation. None for a test."""
    if run.max_steps is None:
        return None
    made = step_of(folder.run(run.name))
    return _validated(run, folder) if made is None else made


def parents_of(run: StepRun, folder: Folder) -> dict[str, int]:
    """Run that a step is about to start from or to test -> steps behind its newest checkpoint, if it has one; also for
    the runs behind it. A fit writes these down, because it may be killed and resumed, and has then started from what
    was there at first."""
    if run.command == "fit" and ((known := read(folder.parents(run.name), Parents)) or going_on(run, folder)):
        return known.root if known else {}  # of an older run that goes on it is not known
    found = {name: left.step for name in run.parents.values() if (left := standing(folder.run(name)))}
    for name in [*found]:
        found |= known.root if (known := read(folder.parents(name), Parents)) else {}
    if run.command == "fit" and found:
        write_json(folder.parents(run.name), found)
    return found


def agrees(run: StepRun, folder: Folder, done: Done, if_lost: bool = False, look: Look | None = None) -> bool:
    """Whether a step's record still holds: its newest checkpoint is at the recorded step, its metrics exist and belong
    to it, and each run that it started from or tested is at the same step as then.

    if_lost: the answer if its checkpoint is gone; a missing checkpoint of another run is passed over. look: reads a
    run's newest checkpoint, for a caller that asks for many. A run that was asked to write no checkpoint agrees.
    """
    look = look or (lambda name: standing(folder.run(name)))
    if done.metrics and not folder.metrics(run.name).exists():
        return False
    if _have_moved_on(_parents_read(run, folder, done), look):
        return False
    if done.steps is None or run.config.get("trainer", {}).get("enable_checkpointing") is False:
        return True
    left = look(run.name)
    return if_lost if left is None else left.step == done.steps and not _are_older(run, folder, left)


def going_on(run: StepRun, folder: Folder) -> Standing | None:
    """Where a fit resumes: its newest whole checkpoint. None if it has left none, if a run that it started from has
    moved on since, or if it had ended and its metrics are lost or another attempt's: resuming would then train nothing
    and write none."""
    left, done = standing(folder.run(run.name)), read(folder.done(run.name), Done)
    began_from = read(folder.parents(run.name), Parents)
    if left is None or (began_from and _have_moved_on(began_from.root, lambda name: standing(folder.run(name)))):
        return None
    if left.step not in (run.max_steps, done and done.steps):
        return left
    has_none = not folder.metrics(run.name).exists()
    return None if has_none or _are_older(run, folder, left) else left


def _have_moved_on(parents: dict[str, int], look: Look) -> bool:
    """Whether any of these runs is at another step now."""
    return any(left.step != then for name, then in parents.items() if (left := look(name)))


def _parents_read(run: StepRun, folder: Folder, done: Done) -> dict[str, int]:
    metrics = _metrics(run, folder)
    return parents_read(run, done, {run.name: metrics} if metrics else {})


def _are_older(run: StepRun, folder: Folder, left: Standing) -> bool:
    """Whether metrics.json is from a validation before the last one that the checkpoint knows of."""
    validated = _validated(run, folder)
    return None not in (validated, left.validated) and validated < left.validated


def _validated(run: StepRun, folder: Folder) -> int | None:
    """The step of metrics.json; None if it gives none."""
    metrics = _metrics(run, folder)
    return step_in(metrics.root, VALIDATED_STEP) if metrics else None


def _metrics(run: StepRun, folder: Folder) -> Metrics | None:
    """A run's metrics.json; None also if it is damaged, which code that needs it reports."""
    try:
        return read(folder.metrics(run.name), Metrics)
    except SweepError:
        return None
