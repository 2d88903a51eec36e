"""How many optimiser steps a run has really made, and whether its record tells the same."""

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.schema import Done, Metrics, StepRun
from lit_blip2.evaluation.evaluated import VALIDATED_STEP
from lit_blip2.runs import step_of


def steps_made(run: StepRun, folder: Folder) -> int | None:
    """Those of a fit's checkpoint; where it writes none, of its last validation. None of a test."""
    if run.max_steps is None:
        return None
    if (made := step_of(folder.run(run.name))) is not None:
        return made
    metrics = read(folder.metrics(run.name), Metrics)
    step = metrics.root.get(VALIDATED_STEP) if metrics else None
    return None if step is None else int(step)


def agrees(run: StepRun, folder: Folder, done: Done) -> bool:
    """Whether the checkpoint is there and of as many steps as the record says. A run that writes none agrees."""
    if done.steps is None or run.config.get("trainer", {}).get("enable_checkpointing") is False:
        return True
    return step_of(folder.run(run.name)) == done.steps


def contradicted(run: StepRun, folder: Folder) -> bool:
    """Whether a checkpoint is there that is of other steps than the record says, as one from a backup."""
    done = read(folder.done(run.name), Done)
    made = step_of(folder.run(run.name)) if done and done.steps is not None else None
    return made is not None and made != done.steps
