"""One step run: an ordinary command in a process of its own, resumed where a killed one stopped."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lit_blip2.ablation.run.folder import Folder, read_json, try_lock, write_json
from lit_blip2.ablation.run.plan import StepRun
from lit_blip2.ablation.spec.grid import REFERENCE

POLL_SECONDS = 0.2
GRACE_SECONDS = 20  # from a polite end to a kill
MOST_KILLS = 3  # a step whose process is killed so often has failed
TAIL_LINES = 30


class StepError(Exception):
    """A step's process ended badly. record: what failed.json holds."""

    def __init__(self, record: dict[str, Any]):
        super().__init__(record["message"])
        self.record = record


class StoppedError(Exception):
    """The sweep was asked to end."""


def run_step(
    run: StepRun,
    folder: Folder,
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
    watch: Callable[[Path], None] = lambda run_folder: None,
) -> dict[str, Any]:
    """What done.json holds, of this run or of the equal one that another cell or worker has made; waits for one that
    is under way.

    Args: environment of the subprocess; whether to stop; called with the run's folder while it trains.
    Raises StepError, StoppedError, what `watch` raises, OSError for a full disk.
    """
    while True:
        if stopping():
            raise StoppedError
        with try_lock(folder.lock(run.name)) as lock:
            if lock is not None:
                return _ended(run, folder) or _run(run, folder, environment, stopping, watch, lock.fileno())
        time.sleep(POLL_SECONDS)


def _ended(run: StepRun, folder: Folder) -> dict[str, Any] | None:
    """The record of a run that ended well. Raises StepError for one that did not, ValueError for one of another key."""
    failed, done = read_json(folder.failed(run.name)), read_json(folder.done(run.name))
    for record in (failed, done):
        if record and record["key"] != run.key:
            raise ValueError(
                f"{folder.run(run.name)} holds a run of other settings, data or sources than this sweep's: remove it, "
                "or give another --out"
            )
    if failed:
        raise StepError(failed)
    return done


def _run(
    run: StepRun,
    folder: Folder,
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
    watch: Callable[[Path], None],
    lock: int,
) -> dict[str, Any]:
    folder.check_space()
    run_folder, log = folder.run(run.name), folder.run(run.name) / "log.txt"
    run_folder.mkdir(parents=True, exist_ok=True)
    write_config(run, folder)
    began, before = time.monotonic(), datetime.now(UTC)
    for _ in range(MOST_KILLS):
        attempt = _count_attempt(run_folder / "attempts.txt")
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command(run, folder), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                env=dict(environment), pass_fds=[lock],
            )  # fmt: skip
            code, peak = _wait(process, run_folder, stopping, watch)
        if code != 0 and stopping():
            raise StoppedError  # Ctrl-C reaches the whole terminal: the run was interrupted, it has not failed
        if code == 0:
            return _record_done(run, folder, time.monotonic() - began, before, attempt, peak)
        if code > 0:
            break
    _record_failure(run, folder, code, log)


def _count_attempt(file: Path) -> int:
    """How often this run has been started, by whichever worker."""
    with file.open("a+", encoding="utf-8") as stream:
        stream.write(datetime.now(UTC).isoformat(timespec="seconds") + "\n")
        stream.seek(0)
        return len(stream.readlines())


def command(run: StepRun, folder: Folder) -> list[str]:
    """What a person would type; a fit that left a checkpoint goes on from it, unless writing it was cut short."""
    arguments = [sys.executable, "-m", "lit_blip2", run.command, "--config", str(folder.config(run.name))]
    own = folder.run(run.name)
    if run.command == "test":
        return [*arguments, "--ckpt_path", str(folder.run(next(iter(run.parents.values()))))]
    whole = [file for file in own.glob("**/last.ckpt") if zipfile.is_zipfile(file)]
    return [*arguments, "--ckpt_path", str(whole[0])] if whole else arguments


def write_config(run: StepRun, folder: Folder) -> None:
    """The step's resolved YAML: references to other steps as their folders, and a logger that writes into its own."""
    config = _with_folders(run.config, {step: str(folder.run(name)) for step, name in run.parents.items()})
    where = {"save_dir": str(folder.root / "runs"), "name": run.step, "version": run.name.partition("/")[2]}
    config["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": where | {"default_hp_metric": False},
    }
    file = folder.config(run.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _with_folders(value: Any, folders: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _with_folders(each, folders) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_folders(each, folders) for each in value]
    return folders[value[1:]] if isinstance(value, str) and value.startswith(REFERENCE) else value


def _wait(
    process: subprocess.Popen, run_folder: Path, stopping: Callable[[], bool], watch: Callable[[Path], None]
) -> tuple[int, float]:
    """Exit code (negative: the signal that killed it) and peak memory in GiB. Never leaves the process behind."""
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage.ru_maxrss / 2**20
            if stopping():
                raise StoppedError
            watch(run_folder)
            time.sleep(POLL_SECONDS)
    finally:
        _put_down(process)


def _put_down(process: subprocess.Popen) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _record_done(
    run: StepRun, folder: Folder, seconds: float, began: datetime, attempts: int, peak: float
) -> dict[str, Any]:
    done = {
        "key": run.key,
        "seconds": round(seconds, 3),
        "steps": run.max_steps,
        "peak_memory_gib": round(peak, 3),
        "began": began.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "attempts": attempts,
    }
    write_json(folder.done(run.name), done)
    return done


def _record_failure(run: StepRun, folder: Folder, code: int, log: Path) -> None:
    why = f"exit code {code}"
    if code < 0:
        why = f"killed by {signal.Signals(-code).name} {MOST_KILLS} times"
        why += " (out of memory?)" if code == -signal.SIGKILL else ""
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    record = {"key": run.key, "step": run.name, "message": f"{run.command} ended: {why}", "log_tail": tail}
    write_json(folder.failed(run.name), record)
    raise StepError(record)


def metrics_of(run: StepRun, folder: Folder) -> dict[str, float]:
    """The run's metrics.json; empty if it wrote none."""
    return read_json(folder.run(run.name) / "metrics.json") or {}
