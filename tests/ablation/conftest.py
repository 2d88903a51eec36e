"""A sweep without training: a hand-made plan whose steps are small scripts, run by real workers in real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def start_worker():
    """Start a worker process on a hand-made plan (see `hand_made.py`); it is a process group of its own."""
    started = []

    def start(out: Path, storage: str, cells: int = 6, *options: str) -> subprocess.Popen:
        command = [sys.executable, str(HERE / "hand_made.py"), str(out), storage, str(cells), *options]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent.parent)}
        process = subprocess.Popen(
            command,
            start_new_session=True,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
