"""Decides whether a `fit` begins a new run, in a folder of its own, or continues one that was stopped, and which."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.config import flat
from lit_blip2.contents import DataError
from lit_blip2.loggers import folders, places
from lit_blip2.runs import Left, check_new, newest_of, newest_other, run_of, standing
from lit_blip2.stopping import job_name, restarted
from lit_blip2.terminal import first_few, one_line

SHOWN = 60  # characters of a setting


def go_on(config: Namespace, dumped: dict[str, Any], resume: bool) -> Left | None:
    """The run to continue, or None for a new one. Puts a continued run's folder and checkpoint into the config. Before
    a new run, it logs an unfinished one of the same settings.

    Args: config: of the command. dumped: its resolved settings. resume: --resume was given; a restarted job looks for
    its own run even without it.
    Raises SystemExit if the run to continue is finished, and ValueError for --resume together with --ckpt_path.
    """
    start, again, job = config.get("ckpt_path"), restarted(), job_name()
    if resume and start:
        raise ValueError(
            f"--resume goes on with the newest unfinished run of these settings, and --ckpt_path with {start}: leave "
            "out one of them"
        )
    if start and not again:
        return None
    own = places(config.trainer.logger)
    if not own:
        if resume or again:
            rank_zero_info(
                "no logger gives these runs a folder (save_dir and name), so none is found: a new one begins"
            )
        return None
    folder, steps = Path(own[0].save_dir, own[0].name), config.trainer.max_steps
    if again and job and (left := newest_of(dumped, folder, steps, job)):
        return _with(left, config, own, "the run of this job")
    if again and not resume:
        of = f"of this job ({job})" if job else "of this job, whose number is not known,"
        whence = f", from {start}" if start else ""
        rank_zero_info(f"no run {of} has left a checkpoint in {folder}: a new one begins{whence}")
        if start:
            return None
    return _newest(config, dumped, own, folder, resume)


def _newest(config: Namespace, dumped: dict[str, Any], own: list[Namespace], folder: Path, resume: bool) -> Left | None:
    """The newest run of these settings, whoever began it. Without --resume it is only logged. With --resume, raises
    DataError as `newest_of`."""
    try:
        left = newest_of(dumped, folder, config.trainer.max_steps)
        if left is None and resume:
            said = f"no unfinished run of these settings has left a checkpoint in {folder}: a new one begins"
            rank_zero_info(said + _other(dumped, folder))
    except DataError as error:
        if resume:
            raise
        rank_zero_info(f"{error}. A new one begins")
        return None
    if resume and left is not None:
        return _with(left, config, own, "the newest run of these settings")
    if left is not None and not left.finished:
        rank_zero_info(
            f"an unfinished run of these settings lies in {_where(left, config)}: --resume goes on with it. A new one "
            "begins"
        )
    return None


def _with(left: Left, config: Namespace, own: list[Namespace], which: str) -> Left:
    """Continue a run. Raises SystemExit if it is finished."""
    where = _where(left, config)
    if left.finished:
        rank_zero_info(f"{which} is finished: {where}. Another one begins by a command without --resume, or a new job")
        raise SystemExit(0)
    instead = f", {which}, and not with {start}" if (start := config.get("ckpt_path")) else ""
    rank_zero_info(f"going on with {where}{instead}")
    config.ckpt_path = str(left.checkpoint)
    for each in own:
        each.version = left.run.name
    return left


def _where(left: Left, config: Namespace) -> str:
    return f"{left.run}, at step {left.step} of {config.trainer.max_steps}"


def check_folder(config: Namespace) -> None:
    """Raises ValueError if a new run would begin in a folder that the settings name and that already holds a run. A
    logger without a version makes a new folder."""
    trainer = config.trainer
    if trainer.get("fast_dev_run"):
        return
    runs = folders(trainer.logger)
    if trainer.logger is False or trainer.logger == []:
        runs = [Path(trainer.get("default_root_dir") or ".")]
    for run in runs:
        check_new(run, config.get("ckpt_path"), job_name())


def own_run(config: Namespace) -> Left | None:
    """The run that --ckpt_path continues in its own folder, as in a step of a sweep; None for any other fit."""
    start, runs = config.get("ckpt_path"), folders(config.trainer.logger)
    if not (start and runs) or run_of(Path(start).resolve()) != runs[0].resolve():
        return None
    left = standing(runs[0])
    return left and Left(runs[0], Path(start), left.step, False)


def _other(dumped: dict[str, Any], folder: Path) -> str:
    """A text about the newest run and the settings in which it differs, if it is unfinished; else empty."""
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
