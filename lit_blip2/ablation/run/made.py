"""How many optimiser steps a run has really made, and whether its records tell the same."""

from lit_blip2.ablation.folder import Folder, SweepError, read
from lit_blip2.ablation.schema import Done, Metrics, StepRun
from lit_blip2.evaluation.evaluated import VALIDATED_STEP, step_in
from lit_blip2.runs import Standing, standing, step_of


def steps_made(run: StepRun, folder: Folder) -> int | None:
    """Those of a fit's checkpoint; where it writes none, of its last validation. None of a test."""
    if run.max_steps is None:
        return None
    made = step_of(folder.run(run.name))
    return _validated(run, folder) if made is None else made


def agrees(run: StepRun, folder: Folder, done: Done, if_lost: bool = False) -> bool:
    """Whether the newest checkpoint stands at the step that the record tells, and the metrics are of it. if_lost: the
    answer where it is gone. A run that was asked to write none agrees."""
    if done.steps is None or run.config.get("trainer", {}).get("enable_checkpointing") is False:
        return True
    left = standing(folder.run(run.name))
    return if_lost if left is None else left.step == done.steps and not _are_older(run, folder, left)


def going_on(run: StepRun, folder: Folder) -> Standing | None:
    """Where a fit goes on: its newest whole checkpoint. None where it has left none, and where that stands at the last
    step and its metrics are lost, or those of another attempt: going on would train nothing and write none."""
    left = standing(folder.run(run.name))
    if left is None or left.step != run.max_steps:
        return left
    has_none = not folder.metrics(run.name).exists()
    return None if has_none or _are_older(run, folder, left) else left


def _are_older(run: StepRun, folder: Folder, left: Standing) -> bool:
    """Whether metrics.json is of a validation before the last one that the checkpoint knows of."""
    validated = _validated(run, folder)
    return None not in (validated, left.validated) and validated < left.validated


def _validated(run: StepRun, folder: Folder) -> int | None:
    """The step of metrics.json; None where it tells none, or is damaged, which whoever needs its metrics says."""
    try:
        metrics = read(folder.metrics(run.name), Metrics)
    except SweepError:
        return None
    return step_in(metrics.root, VALIDATED_STEP) if metrics else None
