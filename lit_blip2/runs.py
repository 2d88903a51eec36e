"""Finds the checkpoint that a run's folder stands for, and the run that a checkpoint belongs to.

A run is the folder that holds its config.yaml, and a folder holds one run. Its checkpoints lie in it or up to two
folders below, under any name:

    runs/mini_opt/version_0/config.yaml
    runs/mini_opt/version_0/job.txt                  the cluster job that trains it, if any
    runs/mini_opt/version_0/checkpoints/last.ckpt, epoch=0-step=500.ckpt

Older folders may hold checkpoints of several runs: those of the run of config.yaml count.
"""

import warnings
import zipfile
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from lit_blip2.contents import DataError, parsed_yaml, read_text
from lit_blip2.links import check_inside, leads_out, others_in

CONFIG = "config.yaml"
JOB = "job.txt"  # the names of the job that trains a run, a line for each machine, see stopping.job_name
PLANNED = "planned_steps"  # key in checkpoints that stand for their run; a picked one, such as a best one, lacks it
WRITES = ("logger", "default_root_dir")  # the trainer's keys that say where it writes
# No part of what a run is: where it writes, how long it may take, what it shows, how many processes share its steps.
NO_PART = (
    *WRITES, "max_time", "devices", "num_nodes", "enable_progress_bar", "enable_model_summary", "log_every_n_steps",
)  # fmt: skip
NO_DATA = ("num_workers", "eval_batch_size")  # the same, of the data's arguments
CHECKPOINTS = "checkpoints"  # the folder of a run that holds them
HELD = ".training.lock"  # lock of the process that trains a run
LOOK_SECONDS = 1.0  # to wait for a lock: each of many ranks may hold it briefly to see whether it is free
DEPTH = 3  # a checkpoint's folder, the one above it, and the one above that


class Found(NamedTuple):
    """A readable checkpoint. Sorted by: matches the run's current config, then step, then time written."""

    is_of_config: bool
    step: int
    written: int
    file: Path


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path stands for: the file itself, or the newest whole one of a run's folder, or of an
    experiment's newest run.

    Warns if it has fewer steps than its run planned, except for a file that was picked on purpose, such as
    ModelCheckpoint's. Raises as `newest_checkpoint`.
    """
    file, contents = _newest(given := Path(path))
    if given.is_file():
        contents = _standing(file)
    step, planned = contents.get("global_step"), _planned(contents)
    if step is not None and planned is not None and step < planned:
        warnings.warn(
            f"{file if given.is_file() else run_of(file)} stands at step {step} of {planned}: its run was stopped, has "
            "ended early, or still trains. fit --resume goes on with a run that was stopped",
            stacklevel=2,
        )
    return file


def _standing(file: Path) -> dict[str, Any]:
    """The contents of a checkpoint file that stands for its run, under any name; {} for another one. Older ones are
    recognised by their name alone."""
    contents = (_read(file) or {}) if zipfile.is_zipfile(file) else {}
    return contents if PLANNED in contents or file.name.startswith("last") else {}


def newest_checkpoint(path: str | Path) -> Path:
    """As `find_checkpoint`, without its warning, for callers that resume a run or ask for its step.

    Damaged files are left out, with a warning that names them. Raises FileNotFoundError that says what was looked for,
    ValueError for a folder with runs of several experiments, and DataError if a checkpoint or a config is a link that
    leads out of the folder.
    """
    return _newest(Path(path))[0]


def _newest(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint and its contents; a file is returned unread, with {}."""
    if path.is_file():
        return path, {}
    files = _files_of_newest_run(path)
    check_inside(path, files)
    if files:
        check_inside(run_of(files[0]), [run_of(files[0]) / CONFIG])
    read = {file: _read(file) for file in files}
    found = sorted((_found(file, held) for file, held in read.items() if held is not None), reverse=True)
    # Comparing a file's checksums takes seconds: the newest is looked at, and an older one only where that is damaged.
    whole = next((each.file for each in found if is_whole(each.file)), None)
    damaged = [file for file, held in read.items() if held is None]
    damaged += takewhile(lambda file: file != whole, [each.file for each in found])
    said = f"{', '.join(map(str, damaged))} cannot be read (damaged, or not a checkpoint)"
    if whole is None:
        raise FileNotFoundError(
            f"no checkpoint: {str(path)!r} is neither a file nor a folder that holds a readable checkpoint"
            f"{f': {said}' if damaged else ''}. Train the run first, or give the path of another run"
        )
    if damaged:
        warnings.warn(f"{said}: taking {whole}", stacklevel=2)
    if not found[0].is_of_config and read[whole].get("config") and _config(config := run_of(whole) / CONFIG):
        warnings.warn(
            f"no checkpoint was written by the run of {config}, which has ended before its first one: taking {whole}, "
            "of another run in that folder",
            stacklevel=2,
        )
    return whole, read[whole]


def _files_of_newest_run(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, or of the newest run below a folder. Raises ValueError if it has runs of
    several experiments."""
    runs: dict[Path, list[Path]] = {}
    for file in _files(folder):
        runs.setdefault(run_of(file), []).append(file)
    if (folder / CONFIG).is_file():  # this is a run; a run below it is another one
        return runs.get(folder, [])
    if len(experiments := sorted({str(run.parent) for run in runs})) > 1:
        raise ValueError(
            f"{str(folder)!r} holds runs of several experiments ({', '.join(experiments)}): name one of them"
        )
    return max(runs.values(), key=lambda files: max(file.stat().st_mtime_ns for file in files), default=[])


def _files(folder: Path) -> list[Path]:
    """All possible checkpoints below a folder. A file whose name begins with a dot is still being written."""
    files = [*folder.rglob("*.ckpt"), *(_behind_links(folder) if folder.is_dir() else [])]
    return sorted(file for file in files if file.is_file() and not file.name.startswith("."))


def _behind_links(folder: Path) -> list[Path]:
    """Checkpoints in a run, or in its folder `checkpoints`, behind links that lead out of a folder. They are included
    so that they are refused by name, and not passed over."""
    links = [link for link in others_in(folder) if link.is_dir() and leads_out(folder, link)]
    own = [file for link in links if link.name == CHECKPOINTS for file in link.glob("*.ckpt")]
    return own + [file for link in links for file in link.glob(f"{CHECKPOINTS}/*.ckpt")]


class Left(NamedTuple):
    """How far a run has come. checkpoint: its newest whole one. finished: all its steps are made and validated."""

    run: Path
    checkpoint: Path
    step: int
    finished: bool


def newest_of(config: dict[str, Any], folder: Path, max_steps: int, job: str | None = None) -> Left | None:
    """The run of a resolved config, in an experiment's folder, to go on with.

    This is the newest unfinished run that has left a checkpoint and is not being trained now, or else the newest
    finished one. None if a run newer than the finished one has left nothing: it must be made anew. Where a run writes
    is no part of its config. A warning names damaged checkpoints.

    job: only runs that this job trained last, and of these the one with the most steps: the others are copies of it,
    whose files are newer.

    Raises DataError if such a run's checkpoints lie behind a link that leads out of it.
    """
    wanted, newer, found = _placeless(config), False, []
    for run in _runs(folder):
        kept = _config(run / CONFIG)
        if kept not in (None, wanted) or (job is not None and job not in jobs_of(run)):
            continue
        if is_held(run):
            newer = newer or kept is not None
            continue
        try:
            file, contents = _newest(run)
        except FileNotFoundError as error:
            newer = newer or kept is not None
            if any(run.rglob("*.ckpt")):
                warnings.warn(str(error), stacklevel=2)
            continue
        if contents.get("config") and _config(contents["config"]) != wanted:  # config.yaml is missing, or newer
            newer = newer or kept is not None
            continue
        if kept is None:
            warnings.warn(f"{run} has no {CONFIG} that can be read: taking the one in {file}", stacklevel=2)
        step = contents.get("global_step", 0)
        left = Left(run, file, step, is_at_end(contents, max_steps))
        if not left.finished and job is None:
            return left
        if not (left.finished and newer):
            found.append(left)
    return max(found, key=lambda left: left.step if job else 0, default=None)


def is_at_end(contents: Mapping[str, Any], max_steps: int) -> bool:
    """Whether nothing is left to do from a checkpoint: all steps are made, and no validation of the last is due."""
    step = contents.get("global_step", 0)
    due = contents.get("validation_due", contents.get("validated_step", step) != step)  # older ones do not tell it
    return step >= max_steps and not due


def _runs(folder: Path) -> list[Path]:
    """The runs of an experiment, the newest first. A run without config.yaml, as an interrupted copy leaves it, is
    recognised by its checkpoints."""
    runs = {file.parent for file in folder.glob(f"*/{CONFIG}")}
    runs |= {file.parent.parent for file in folder.glob(f"*/{CHECKPOINTS}/*.ckpt")}
    written = {run: (run / CONFIG if (run / CONFIG).exists() else run).stat().st_mtime_ns for run in runs}
    return sorted(runs, key=lambda run: (written[run], run.name), reverse=True)


def jobs_of(run: Path) -> list[str]:
    """The names of the cluster job that trained a run last; [] if there was none."""
    try:
        return read_text(run / JOB).splitlines()
    except (OSError, DataError):
        return []


def check_new(run: Path, start: str | Path | None = None, job: str | None = None) -> None:
    """Raises ValueError if a new run would begin in the folder of another one. start: the checkpoint that training
    resumes from, which may be that run's. job: this job; what it left there before its first checkpoint may be
    overwritten."""
    if start is not None and run_of(Path(start).resolve()) == run.resolve():
        return
    kept = any((run / CHECKPOINTS).glob("*.ckpt"))
    if not (kept or (run / CONFIG).exists()) or (not kept and job in jobs_of(run)):
        return
    left, place, way = standing(run), "without a checkpoint", "remove it if nothing there is needed"
    if left is not None:
        place = f"at step {left.step}{f' of {left.planned}' if left.planned else ''}"
        way = "--resume goes on with an unfinished run of the same settings"
    raise ValueError(
        f"{run} holds a run already, {place}, and nothing is written over it: {way}; for a new one give another "
        "--trainer.logger.version (without a logger: --trainer.default_root_dir), or none, and it gets a folder of its "
        "own"
    )


class Other(NamedTuple):
    """An unfinished run of other settings. settings: its own and the requested ones, without what is no part of a
    run."""

    run: Path
    step: int
    max_steps: int
    settings: tuple[dict[str, Any], dict[str, Any]]


def newest_other(config: dict[str, Any], folder: Path) -> Other | None:
    """The newest run in an experiment's folder, if it is unfinished and has other settings than a resolved config; else
    None."""
    runs = _runs(folder)
    if not runs or is_held(run := runs[0]) or (left := standing(run)) is None:
        return None
    theirs, ours = _config(run / CONFIG) or _config(left.config), _placeless(config)
    if theirs in (None, ours) or left.planned is None or left.step >= left.planned:
        return None
    return Other(run, left.step, left.planned, (theirs, ours))


class Standing(NamedTuple):
    """The state of a run's newest whole checkpoint. step: optimiser steps. validated: step of the last complete
    validation. planned: steps that the run should make. None: not recorded."""

    checkpoint: Path
    step: int
    validated: int | None
    planned: int | None
    config: str | None


def standing(run: Path) -> Standing | None:
    """The state of a run; None without a whole checkpoint that records its step."""
    try:
        file, contents = _newest(run)
    except FileNotFoundError:
        return None
    if not isinstance(step := contents.get("global_step"), int):
        return None
    return Standing(file, step, contents.get("validated_step"), _planned(contents), contents.get("config"))


def step_of(run: Path) -> int | None:
    """The step of a run's newest whole checkpoint; None without one."""
    left = standing(run)
    return left and left.step


def later_than(step: int, run: Path) -> list[Path]:
    """A run's whole checkpoints of later steps, sorted by path."""
    files = [file for file in _files(run) if run_of(file) == run]
    return [file for file in files if ((_read(file) or {}).get("global_step") or 0) > step and is_whole(file)]


def hold(run: Path) -> FileLock:
    """Lock a run for this process to train. Raises OSError if another process trains it."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / HELD, timeout=LOOK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(
            f"another process trains the run in {run}: wait for it, or give a --trainer.logger.version"
        ) from None
    return lock


def is_held(run: Path) -> bool:
    """Whether a process trains a run now."""
    if not (run / HELD).exists():
        return False
    lock = FileLock(run / HELD, timeout=LOOK_SECONDS)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to: the nearest above it with a config.yaml; without one, the
    folder above `checkpoints`, or its own."""
    above = list(checkpoint.parents)[:DEPTH]
    own = above[1] if above[0].name == CHECKPOINTS and len(above) > 1 else above[0]
    return next((folder for folder in above if (folder / CONFIG).is_file()), own)


def is_whole(file: Path) -> bool:
    """Whether each part of a checkpoint matches its checksum: torch writes checksums, but ignores them when it
    reads."""
    try:
        if not zipfile.is_zipfile(file):  # torch's old format has none
            return True
        with zipfile.ZipFile(file) as parts:
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist())
            return not packed and parts.testzip() is None  # torch packs nothing; packed parts may unpack to terabytes
    except Exception:  # damaged in one of many ways
        return False


def _read(file: Path) -> dict[str, Any] | None:
    """The contents of a checkpoint, its tensors left on the disk; None for a damaged file, or no checkpoint."""
    import torch  # a sweep's own process does not need it

    try:
        contents = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception:  # damaged in one of many ways
        return None
    return contents if isinstance(contents, dict) and "state_dict" in contents else None


def _found(file: Path, contents: dict[str, Any]) -> Found:
    beside = run_of(file) / CONFIG
    is_of_config = beside.is_file() and _config(contents.get("config")) == _config(beside)
    step = contents.get("global_step")
    return Found(is_of_config, step if isinstance(step, int) else 0, file.stat().st_mtime_ns, file)


def _planned(contents: dict[str, Any]) -> int | None:
    """The steps that a checkpoint's run was to make; None where neither it nor its config sets a number."""
    trainer = (_config(contents.get("config")) or {}).get("trainer")
    asked = trainer.get("max_steps") if isinstance(trainer, dict) else None
    return next((each for each in (contents.get(PLANNED), asked) if isinstance(each, int) and each > 0), None)


def is_same_run(one: str | None, two: str | None) -> bool:
    """Whether two resolved configs are equal but for what is no part of a run (see `_placeless`)."""
    return _config(one) == _config(two)


def _config(given: Any) -> Any:
    """A config, text or file, in a form to compare. A run that was resumed from a checkpoint is the same run. None for
    a missing file, or if it is no config."""
    if not isinstance(given, str | Path) or (isinstance(given, Path) and not given.exists()):
        return None
    try:
        config = parsed_yaml(read_text(given) if isinstance(given, Path) else given, CONFIG)
    except DataError:
        return None
    return _placeless(config) if isinstance(config, dict) else None


def _placeless(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the checkpoint that its run resumes from, NO_PART and NO_DATA, none of which changes a step."""
    trainer = config.get("trainer")
    trainer = {key: value for key, value in trainer.items() if key not in NO_PART} if isinstance(trainer, dict) else {}
    if isinstance(callbacks := trainer.get("callbacks"), list):
        trainer["callbacks"] = [_graceless(each) for each in without_bars(callbacks)]
    placeless = {key: value for key, value in config.items() if key != "ckpt_path"} | {"trainer": trainer}
    data = config.get("data")
    if isinstance(data, dict) and isinstance(own := data.get("init_args"), dict):
        placeless["data"] = data | {"init_args": {name: own[name] for name in own if name not in NO_DATA}}
    return placeless


def without_bars(callbacks: Any) -> Any:
    """The settings of callbacks without progress bars, which only show what happens; anything else as it is."""
    if not isinstance(callbacks, list):
        return callbacks
    paths = [each.get("class_path") if isinstance(each, dict) else None for each in callbacks]
    return [each for each, path in zip(callbacks, paths) if not str(path).endswith("ProgressBar")]


def _graceless(callback: Any) -> Any:
    arguments = callback.get("init_args") if isinstance(callback, dict) else None
    if not isinstance(arguments, dict):
        return callback
    return callback | {"init_args": {name: value for name, value in arguments.items() if name != "grace"}}
