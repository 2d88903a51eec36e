"""How far the step runs of a cell came, and at which step the runs stood that they read, from the files they left."""

from collections.abc import Iterable, Mapping

from lit_blip2.ablation.schema import Cell, Done, Metrics, Reached, StepRun
from lit_blip2.evaluation.evaluated import TESTED_STEP, VALIDATED_STEP, step_in


def reached(
    runs: Mapping[str, StepRun], cells: Iterable[Cell], done: Mapping[str, Done], metrics: Mapping[str, Metrics]
) -> dict[str, Reached]:
    """Step run -> how far it came, if it has ended well. cells: those that use the runs. done, metrics: by step run, if
    it left them."""
    compared = {name for cell in cells for name in cell.metrics.values()}
    return {
        name: Reached(
            planned=runs[name].max_steps,
            made=_made(runs[name], done),
            measured=_measured(runs[name], metrics) if name in compared else None,
        )
        for name in done
    }


def parents_read(run: StepRun, done: Done, metrics: Mapping[str, Metrics]) -> dict[str, int]:
    """Run that a step started from or tested -> the optimiser steps behind it then. For a tested run, the metrics tell
    them."""
    tested = _measured(run, metrics) if run.command == "test" else None
    return done.parents | ({} if tested is None else {_tested(run): tested})


def _made(run: StepRun, done: Mapping[str, Done]) -> int | None:
    name = _tested(run) if run.command == "test" else run.name
    return done[name].steps if name in done else None


def _measured(run: StepRun, metrics: Mapping[str, Metrics]) -> int | None:
    name = TESTED_STEP if run.command == "test" else VALIDATED_STEP
    return step_in(metrics[run.name].root, name) if run.name in metrics else None


def _tested(run: StepRun) -> str:
    """The run that a test tests."""
    return next(iter(run.parents.values()), run.name)
