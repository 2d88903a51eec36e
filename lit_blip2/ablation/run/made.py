"""How many optimiser steps a run has really made, and whether its record tells the same."""

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.schema import Done, Metrics, StepRun
from lit_blip2.evaluation.evaluated import VALIDATED_STEP, step_in
from lit_blip2.runs import step_of


def steps_made(run: StepRun, folder: Folder) -> int | None:
    """Those of a fit's checkpoint; where it writes none, of its last validation. None of a test."""
    if run.max_steps is None:
        return None
    if (made := step_of(folder.run(run.name))) is not None:
        return made
    metrics = read(folder.metrics(run.name), Metrics)
    return step_in(metrics.root, VALIDATED_STEP) if metrics else None


def agrees(run: StepRun, folder: Folder, done: Done, if_lost: bool = False) -> bool:
    """Whether the newest checkpoint stands at the step that the record tells. if_lost: the answer where it is gone. A
    run that was asked to write none agrees."""
    if done.steps is None or run.config.get("trainer", {}).get("enable_checkpointing") is False:
        return True
    made = step_of(folder.run(run.name))
    return if_lost if made is None else made == done.steps
