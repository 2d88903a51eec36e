"""Where a resumed run stands: behind its last optimiser step, whatever Lightning has counted.

Lightning restores how many batches it had seen. That number is wrong as soon as `accumulate_grad_batches` changes, and
where a checkpoint was written in the middle of a step (an exception, a signal), whose gradients are lost: batches would
then be summed across two steps, and validations come at other steps. Here a batch is a function of the step, so all
counts follow from the step that the checkpoint stands at.
"""

from typing import Any

LOOP = "epoch_loop"


def stand_at(counts: dict[str, Any], step: int, accumulate: int, epoch: int) -> None:
    """Let the counts of a checkpoint (its `loops.fit_loop`) say that `step` steps were taken and nothing else.

    A validation that was under way is made again from its first batch; Lightning would look at the rest alone.

    Args: counts: changed in place. step: optimiser steps taken. accumulate: micro-batches of a step, from now on.
    epoch: micro-batches after which Lightning begins again.
    """
    batches = step * accumulate
    place = (batches - 1) % epoch + 1 if batches and epoch else batches
    again = _under_way(counts[f"{LOOP}.val_loop.batch_progress"])
    # Lightning counts a batch as completed after the hooks that save, and then counts it for the loggers.
    behind = 0 if again else 1
    counts[f"{LOOP}.batch_progress"] |= {
        name: dict(ready=number, started=number, processed=number, completed=number - behind)
        for name, number in (("total", batches), ("current", place))
    } | {"is_last_batch": False}
    counts[f"{LOOP}.state_dict"]["_batches_that_stepped"] = step - 1
    if again:
        counts[f"{LOOP}.val_loop.batch_progress"] |= {
            "total": dict(ready=1, started=1, processed=0, completed=0),
            "current": dict(ready=0, started=0, processed=0, completed=0),
        }


def _under_way(validation: dict[str, Any]) -> bool:
    """Whether a validation has begun and not looked at all its batches."""
    current = validation["current"]
    return current["ready"] > 0 and not (validation["is_last_batch"] and current["completed"] == current["ready"])
