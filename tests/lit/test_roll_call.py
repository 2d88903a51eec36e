"""Real processes, started by somebody else, of which one ends before there is a process group."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.ranks import commands

pytestmark = [pytest.mark.slow, pytest.mark.run]

BREAKS = """
import os
import signal
import time
from lit_blip2.data.coco import COCO
from lit_blip2.lit import LitStage1

def ends(place):
    if os.environ["ENDS_IN"] == place and os.environ.get("LOCAL_RANK", "0") == os.environ["ENDS_ON"]:
        if os.environ["ENDS_BY"] == "parent":
            print(os.getpid(), flush=True)
            os.kill(os.getppid(), signal.SIGKILL)
            return
        if os.environ["ENDS_BY"] == "kill":
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("no such disk")

ends("import")

class Model(LitStage1):
    def __init__(self, *given, **named):
        ends("model")
        super().__init__(*given, **named)

class Data(COCO):
    def setup(self, stage):
        ends("data")
        super().setup(stage)
"""


@pytest.fixture
def two(world, tmp_path):
    """Start `fit` in two processes with a model and data of the user's own; what the environment tells them."""
    (tmp_path / "breaks.py").write_text(BREAKS)
    arguments = [
        "fit", "--config", "experiments/mini_stage1.yaml", "--model=breaks.Model", "--data=breaks.Data",
        f"--data.root={world}", "--data.batch_size=8", "--trainer.devices=2", "--trainer.strategy=ddp",
        f"--trainer.logger.save_dir={tmp_path}/runs", "--trainer.max_steps=2000",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    with commands(tmp_path) as started:

        def start(place: str, rank: int, by: str, count: int = 2) -> list[subprocess.Popen]:
            told = {"ENDS_IN": place, "ENDS_ON": str(rank), "ENDS_BY": by, "PYTHONPATH": str(tmp_path)}
            return started([arguments] * count, [told] * count)

        yield start


@pytest.mark.parametrize(
    ("place", "rank", "by"),
    [("import", 1, "kill"), ("model", 1, "error"), ("model", 0, "kill"), ("data", 0, "error")],
)
def test_a_rank_that_ends_before_training_ends_the_other_within_a_minute(two, tmp_path, place, rank, by):
    processes = two(place, rank, by)
    dead, other = processes[rank], processes[1 - rank]
    assert dead.wait(60) == (-signal.SIGKILL if by == "kill" else 1)
    begin = time.monotonic()
    assert other.wait(60) == 1 and time.monotonic() - begin < 60
    said = errors_of(tmp_path / f"{1 - rank}.err")
    assert f"rank {rank} (" in said and ("is gone: it was killed" if by == "kill" else "no such disk") in said
    assert f"process {dead.pid}" in said


def test_a_process_ends_with_the_one_that_has_started_it(two, tmp_path):
    """Lightning starts the second one; it kills the first as it builds its model."""
    (first,) = two("model", 1, "parent", count=1)
    assert first.wait(60) == -signal.SIGKILL
    begin, said = time.monotonic(), tmp_path / "0.err"
    while not (told := [line for line in said.read_text().splitlines() if line.startswith("error: ")]):
        assert time.monotonic() - begin < 60
        time.sleep(0.2)
    assert told == [f"error: rank 0 (process {first.pid}) is gone: it was killed. The others end too"]
    (second,) = (int(line) for line in said.read_text().splitlines() if line.isdigit())
    time.sleep(1)
    command = Path(f"/proc/{second}/cmdline")
    assert not command.exists() or not command.read_bytes()  # of one that nobody has waited for yet


def errors_of(file: Path) -> str:
    """The one line that a rank says in the end."""
    text = file.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in text, text
    return line
