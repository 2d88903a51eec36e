"""Whether a `fit` begins anew or goes on with a run that was stopped, and where."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.config import flat
from lit_blip2.runs import Left, newer_without_config, newest_of, newest_other
from lit_blip2.stopping import RESTARTS, slurm_job
from lit_blip2.terminal import first_few, one_line

SHOWN = 60  # characters of a setting


def go_on(config: Namespace, dumped: dict[str, Any], resume: bool) -> Left | None:
    """The run to go on with, its place and checkpoint put into the config; None for a new one, which is told of an
    unfinished one of the same settings.

    Args: resume: --resume was given; a job that was started once more goes on without it.
    Raises SystemExit where the newest run of these settings is finished.
    """
    asked, restarted = resume, any(int(os.environ.get(name) or 0) for name in RESTARTS)
    resume = asked or restarted
    if config.get("ckpt_path"):
        return None
    places = _places(config.trainer.logger)
    if not places:
        if resume:
            rank_zero_info(
                "no logger gives these runs a folder (save_dir and name), so none is found: a new one begins"
            )
        return None
    folder = Path(places[0].save_dir, places[0].name)
    left = newest_of(dumped, folder, config.trainer.max_steps)
    if left is None:
        if resume:
            said = f"no unfinished run of these settings has left a checkpoint in {folder}: a new one begins"
            rank_zero_info(said + _other(dumped, folder))
        return None
    where = f"{left.run}, at step {left.step} of {config.trainer.max_steps}"
    if left.finished:
        return _after_finished(left, where, asked, restarted)
    if not resume:
        rank_zero_info(
            f"an unfinished run of these settings lies in {where}: --resume goes on with it. A new one begins"
        )
        return None
    rank_zero_info(f"going on with {where}")
    config.ckpt_path = str(left.checkpoint)
    for each in places:
        each.version = left.run.name
    return left


def _after_finished(left: Left, where: str, asked: bool, restarted: bool) -> None:
    """A new run begins, unless one was to be gone on with. Raises SystemExit: nothing is left to do."""
    if restarted and not asked and None not in (left.job, job := slurm_job()) and left.job != job:
        rank_zero_info(f"the finished run of these settings, {where}, is another job's: a new one begins")
    elif restarted and not asked and (own := newer_without_config(left.run)):
        rank_zero_info(f"a run that was begun later, in {own}, has left nothing to go on from: a new one begins")
    elif asked or restarted:
        rank_zero_info(f"the newest run of these settings is finished: {where}. Leave out --resume for another one")
        raise SystemExit(0)


def _other(dumped: dict[str, Any], folder: Path) -> str:
    """Which settings the newest run has otherwise, where it is unfinished; empty where it is not."""
    if (other := newest_other(dumped, folder)) is None:
        return ""
    theirs, ours = (flat(each, "") for each in other.settings)
    names = [name for name in theirs | ours if theirs.get(name) != ours.get(name)]
    differing = [
        f"{name.strip('.')} {one_line(theirs.get(name), SHOWN)}, here {one_line(ours.get(name), SHOWN)}"
        for name in names
    ]
    return (
        f". The newest one, {other.run}, stands at step {other.step} of {other.max_steps} and has other settings: "
        f"{first_few(differing, 3, '; ')}"
    )


def _places(logger: Namespace | list[Namespace] | bool | None) -> list[Namespace]:
    """The settings of the loggers that write into a run's folder: the first that names one, and those that share it."""
    settings = [each.get("init_args") for each in (logger if isinstance(logger, list) else [logger]) if each]
    named = [each for each in settings if each and each.get("name") and each.get("save_dir")]
    return [each for each in named if (each.save_dir, each.name) == (named[0].save_dir, named[0].name)]
