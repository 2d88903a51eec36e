"""How many optimiser steps a run has really made, from which steps of others, and whether its records tell the same."""

from collections.abc import Callable

from lit_blip2.ablation.folder import Folder, SweepError, read
from lit_blip2.ablation.reached import parents_read
from lit_blip2.ablation.schema import Done, Metrics, Parents, StepRun
from lit_blip2.evaluation.evaluated import VALIDATED_STEP, step_in
from lit_blip2.runs import Standing, standing, step_of
from lit_blip2.whole_files import write_json

Look = Callable[[str], Standing | None]  # step run -> where its newest checkpoint stands


def steps_made(run: StepRun, folder: Folder) -> int | None:
    """Those of a fit's checkpoint; where it writes none, of its last validation. None of a test."""
    if run.max_steps is None:
        return None
    made = step_of(folder.run(run.name))
    return _validated(run, folder) if made is None else made


def parents_of(run: StepRun, folder: Folder) -> dict[str, int]:
    """Of each run that a step is about to start from or to test, the steps behind its newest checkpoint, if it has one,
    and of those that it started from itself. A fit writes them down: it may be killed and go on, and has then started
    from what stood there at first."""
    if run.command == "fit" and ((known := read(folder.parents(run.name), Parents)) or going_on(run, folder)):
        return known.root if known else {}  # of an older run that goes on it is not known
    found = {name: left.step for name in run.parents.values() if (left := standing(folder.run(name)))}
    for name in [*found]:
        found |= known.root if (known := read(folder.parents(name), Parents)) else {}
    if run.command == "fit" and found:
        write_json(folder.parents(run.name), found)
    return found


def agrees(run: StepRun, folder: Folder, done: Done, if_lost: bool = False, look: Look | None = None) -> bool:
    """Whether what a step's record tells still holds: the newest checkpoint stands at its step, the metrics are there
    and of it, and each run that the step started from or tested stands where it stood then.

    if_lost: the answer where its checkpoint is gone; of another run's that is gone nothing is known. look: for a caller
    that asks for many. A run that was asked to write no checkpoint agrees.
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
    """Where a fit goes on: its newest whole checkpoint. None where it has left none, where what it started from has
    gone on since, and where it had ended and its metrics are lost, or those of another attempt: going on would train
    nothing and write none."""
    left, done = standing(folder.run(run.name)), read(folder.done(run.name), Done)
    began_from = read(folder.parents(run.name), Parents)
    if left is None or (began_from and _have_moved_on(began_from.root, lambda name: standing(folder.run(name)))):
        return None
    if left.step not in (run.max_steps, done and done.steps):
        return left
    has_none = not folder.metrics(run.name).exists()
    return None if has_none or _are_older(run, folder, left) else left


def _have_moved_on(parents: dict[str, int], look: Look) -> bool:
    """Whether a run stands at another step now."""
    return any(left.step != then for name, then in parents.items() if (left := look(name)))


def _parents_read(run: StepRun, folder: Folder, done: Done) -> dict[str, int]:
    metrics = _metrics(run, folder)
    return parents_read(run, done, {run.name: metrics} if metrics else {})


def _are_older(run: StepRun, folder: Folder, left: Standing) -> bool:
    """Whether metrics.json is of a validation before the last one that the checkpoint knows of."""
    validated = _validated(run, folder)
    return None not in (validated, left.validated) and validated < left.validated


def _validated(run: StepRun, folder: Folder) -> int | None:
    """The step of metrics.json; None where it tells none."""
    metrics = _metrics(run, folder)
    return step_in(metrics.root, VALIDATED_STEP) if metrics else None


def _metrics(run: StepRun, folder: Folder) -> Metrics | None:
    """None, too, where they are damaged, which whoever needs them says."""
    try:
        return read(folder.metrics(run.name), Metrics)
    except SweepError:
        return None
