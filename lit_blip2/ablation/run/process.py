"""Runs a command in a process of its own, which is ended when its worker must end."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

POLL_SECONDS = 0.2


def run_process(
    command: list[str], log: Path, environment: Mapping[str, str], lock: int, poll: Callable[[], None], patience: float
) -> tuple[int, float]:
    """Run a command; returns its exit code (negative: the signal that killed it) and its peak memory in GiB.

    log: file to which its output is added. lock: descriptor of a lock that the process holds while it lives. poll:
    called while it runs; an error that it raises ends the process and is passed on. patience: seconds that the process
    then has to end by itself.
    """
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            pass_fds=[lock],
        )
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage.ru_maxrss / 2**20
            poll()
            time.sleep(POLL_SECONDS)
    finally:
        _put_down(process, patience)


def _put_down(process: subprocess.Popen, patience: float) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
