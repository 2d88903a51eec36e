"""Runs one step: starts it once, whoever asks for it, resumes it where a killed process stopped, records its end."""

import shutil
import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from lit_blip2.ablation.folder import Folder, read, write
from lit_blip2.ablation.run.anew import set_aside
from lit_blip2.ablation.run.command import command, write_config
from lit_blip2.ablation.run.locks import try_lock
from lit_blip2.ablation.run.made import agrees, going_on, parents_of, steps_made
from lit_blip2.ablation.run.process import POLL_SECONDS, run_process
from lit_blip2.ablation.run.reads import ChangedError, asked_to_record, collect
from lit_blip2.ablation.schema import Done, Failure, StepRun
from lit_blip2.stopping import ASKING, GRACE, RESTARTS, STATUS

MOST_KILLS = 3  # a step whose process is killed so often has failed
TAIL_LINES = 30
LEAST_FREE = 256 * 2**20  # bytes of the disk that a step needs
TO_EXIT = 10.0  # seconds that a process has beyond its grace time


class StepError(Exception):
    """A step failed: its process ended badly, or files changed while it ran."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


class StoppedError(Exception):
    """The sweep was asked to end."""


def run_step(
    run: StepRun,
    folder: Folder,
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
    watch: Callable[[Path], None] = lambda validations: None,
) -> Done:
    """Run a step, unless another cell or worker has already made this run; waits for one that is under way.

    environment: of the process. stopping: whether to stop. watch: called with the run's validation.jsonl while it
    trains. Returns its record. Raises StepError, StoppedError, what `watch` raises, OSError for a full disk.
    """

    def poll() -> None:
        if stopping():
            raise StoppedError
        watch(folder.validations(run.name))

    while True:
        if stopping():
            raise StoppedError
        with try_lock(folder.lock(run.name)) as lock:
            if lock is not None:
                return _ended(run, folder) or _run(run, folder, environment, stopping, poll, lock.fileno())
        time.sleep(POLL_SECONDS)


def _ended(run: StepRun, folder: Folder) -> Done | None:
    """The record of a run that ended well, if it still holds (see `agrees`); None if it must be run. Raises StepError
    for a run that failed, ValueError for one with another key."""
    failure, done = read(folder.failed(run.name), Failure), read(folder.done(run.name), Done)
    if any(each and each.key != run.key for each in (failure, done)):
        raise ValueError(
            f"{folder.run(run.name)} holds a run of other settings, data or sources than this sweep's: remove it, "
            "or give another --out"
        )
    if failure:
        raise StepError(failure)
    return done if done and agrees(run, folder, done) else None


def _run(
    run: StepRun,
    folder: Folder,
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
    poll: Callable[[], None],
    lock: int,
) -> Done:
    """Start the process, again if it is killed, and record how it ended."""
    _check_space(folder)
    log = folder.run(run.name) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    write_config(run, folder)
    began, clock = datetime.now(UTC), time.monotonic()
    # A step resumes from its own checkpoint (see `command`), and must look for no other run's.
    environment = {name: value for name, value in environment.items() if name not in RESTARTS}
    environment |= asked_to_record(run, folder)
    for _ in range(MOST_KILLS):
        if run.command == "fit" and going_on(run, folder) is None:
            set_aside(run, folder)
        parents = parents_of(run, folder)  # before it reads them: if one moves on meanwhile, it is run again
        attempts = _count_attempt(log.with_name("attempts.txt"))
        code, peak = run_process(command(run, folder), log, environment, lock, poll, _patience(run))
        if code == 0:
            return _record_done(run, folder, began, time.monotonic() - clock, attempts, peak, parents, log)
        if stopping():
            raise StoppedError  # Ctrl-C reaches the whole terminal: the run was interrupted, it has not failed
        if code > 0 and code - STATUS not in ASKING:
            break
    _check_space(folder)  # a full disk is no fault of the run
    _record_failure(run, folder, _why(code), log)


def _patience(run: StepRun) -> float:
    """Seconds that the run's process may take to end when it is asked to."""
    callbacks = run.config.get("trainer", {}).get("callbacks") or []
    given = [(each.get("init_args") or {}).get("grace") for each in callbacks if isinstance(each, dict)]
    return max([each for each in given if isinstance(each, int | float)], default=GRACE) + TO_EXIT


def _check_space(folder: Folder) -> None:
    """Raises OSError if the disk is nearly full: a run that ends in the middle of a checkpoint is of no use."""
    free = shutil.disk_usage(folder.root).free
    if free < LEAST_FREE:
        raise OSError(
            f"{free / 2**20:.0f} MiB are free on the disk of {folder.root}, and a step needs {LEAST_FREE // 2**20}: "
            "make room, or move the folder and start the same command with --out"
        )


def _count_attempt(file: Path) -> int:
    """Note one more start of this run; returns how often any worker has started it."""
    with file.open("a+", encoding="utf-8") as stream:
        stream.write(datetime.now(UTC).isoformat(timespec="seconds") + "\n")
        stream.seek(0)
        return len(stream.readlines())


def _record_done(
    run: StepRun,
    folder: Folder,
    began: datetime,
    seconds: float,
    attempts: int,
    peak: float,
    parents: dict[str, int],
    log: Path,
) -> Done:
    try:
        reads = collect(run, folder, began.timestamp())
    except ChangedError as error:
        _record_failure(run, folder, str(error), log)
    done = Done(
        key=run.key,
        seconds=round(seconds, 3),
        steps=steps_made(run, folder),
        peak_memory_gib=round(peak, 3),
        began=began,
        ended=datetime.now(UTC),
        attempts=attempts,
        parents=parents,
        metrics=folder.metrics(run.name).exists(),
        **({"reads": reads} if reads else {}),
    )
    write(folder.done(run.name), done)
    return done


def _why(code: int) -> str:
    if code >= 0 and code - STATUS not in ASKING:
        return f"exit code {code}"
    killed = f"killed by {signal.Signals(-code if code < 0 else code - STATUS).name} {MOST_KILLS} times"
    return killed + (" (out of memory?)" if code == -signal.SIGKILL else "")


def _record_failure(run: StepRun, folder: Folder, why: str, log: Path) -> NoReturn:
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    failure = Failure(key=run.key, step=run.name, message=f"{run.command} ended: {why}", log_tail=tail)
    write(folder.failed(run.name), failure)
    raise StepError(failure)
