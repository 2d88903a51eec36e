"""A hand-made sweep with a small script in place of training, workers on it as processes, and a PostgreSQL server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ablation.run.hand_made import HandMade

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A hand-made sweep in `out`, of so many cells; by default on SQLite. own_1="broken": the fate of run own/1."""

    def make(number: int, out: str = "out", storage: str = f"sqlite:///{tmp_path}/study.db", **fates: str) -> HandMade:
        fates = {name.replace("_", "/"): fate for name, fate in fates.items()}
        sweep = HandMade(tmp_path / out, storage, number, fates)
        sweep.folder.root.mkdir(exist_ok=True)
        sweep.stand_in(monkeypatch.setattr)
        return sweep

    return make


@pytest.fixture
def start():
    """Start a worker as a process, in a process group of its own."""
    started = []

    def start(sweep: HandMade) -> subprocess.Popen:
        arguments = [str(sweep.folder.root), sweep.storage, str(sweep.number)]
        arguments += [f"{run}={fate}" for run, fate in sweep.fates.items()]
        command = [sys.executable, "-m", "tests.ablation.run.hand_made", *arguments]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Postgres:
    """A server of its own on a socket in `home`, whose path must be short, and which the server's user must reach."""

    def __init__(self, home: Path):
        self.home, self.url = home, f"postgresql://test@/postgres?host={home}"
        home.mkdir()
        shutil.chown(home, "postgres") if os.getuid() == 0 else None
        self._call("initdb", "-D", f"{home}/data", "-A", "trust", "-U", "test")
        self.start()

    def start(self) -> None:
        options = f"-k {self.home} -c listen_addresses=''"
        self.runs = True
        self._call("pg_ctl", "-D", f"{self.home}/data", "-w", "-o", options, "-l", f"{self.home}/log", "start")

    def stop(self) -> None:
        if self.runs:
            self._call("pg_ctl", "-D", f"{self.home}/data", "-m", "immediate", "stop")
        self.runs = False

    def _call(self, *command: str) -> None:
        prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        program = str(SERVERS[-1] / command[0])
        subprocess.run([*prefix, program, *command[1:]], check=True, capture_output=True, cwd=self.home)


@pytest.fixture
def postgres():
    if not SERVERS:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql: apt-get install postgresql")
    pytest.importorskip("psycopg2")
    server = Postgres(Path("/tmp") / f"pg{os.getpid()}")
    yield server
    server.stop()
    shutil.rmtree(server.home)
