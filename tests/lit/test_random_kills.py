"""Runs that are killed at random moments, again and again, end equal to the undisturbed run to the last bit.

KILLS_SEED in the environment draws other moments; a failure tells the seed and each kill.
"""

import contextlib
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.runs import step_of
from tests.lit.stops import command, slurm

pytestmark = [pytest.mark.slow, pytest.mark.run]
SEED = int(os.environ.get("KILLS_SEED", 0))
KILLS, STEPS, PAUSE, LIMIT = 20, 8, 0.1, 60.0
HOOKS = ("setting up", "step", "saving", "validation of")  # what Told prints
CSV = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger"]
DROPOUT = "--model.net.bridge.qformer.dropout=0.1"
EXPERIMENTS = {
    "stage 1": ("mini_stage1", ["--model.net.qformer.dropout=0.1", "--data.num_workers=1", *CSV]),
    "stage 2": ("mini_opt", ["--model.init_from={stage 1}", DROPOUT, *CSV]),
    "fine-tuning": (
        "mini_vqa",
        [
            "--model.init_from={stage 2}", "--model.text_from={stage 1}", DROPOUT, "--data.augment=true",
            "--trainer.callbacks+=lit_blip2.lit.callbacks.EMA",
        ],
    ),
}  # fmt: skip
SAVED = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "validated_step", "logged")


class Kill(NamedTuple):
    """signals: one after the other. whom: a rank, or None for the whole group. elsewhere: TMPDIR is on another disk.
    moment: share of what is left of the run. pause: seconds between two signals. save: not before a file is written."""

    signals: tuple[signal.Signals, ...]
    whom: int | None
    elsewhere: bool
    moment: float
    pause: float
    save: bool


Case = tuple[str, int]  # of EXPERIMENTS, on so many processes
CASES: list[Case] = [(stage, processes) for stage in EXPERIMENTS for processes in (1, 2)]


def plan(seed: int) -> dict[Case, list[Kill]]:
    """KILLS kills, as many of a kind for each seed."""
    draw = random.Random(seed)
    kinds = [(signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGKILL)]
    signals, places, saves = ([*islice(cycle(each), KILLS)] for each in (kinds, (False, True), (True, False, False)))
    for each in (signals, places, saves):
        draw.shuffle(each)
    kills: dict[Case, list[Kill]] = {case: [] for case in CASES}
    for case, *each in zip(cycle(CASES), signals, places, saves):
        whom = draw.choice([None, *range(case[1])])
        kills[case].append(Kill(each[0], whom, each[1], 0.9 * draw.random(), draw.random(), each[2]))
    return kills


class Started:
    """A run in a process group of its own; what it says goes to a file."""

    def __init__(self, arguments: list[str], runs: Path, environment: dict[str, str]):
        runs.mkdir(exist_ok=True)
        self.log, self.began = runs / f"{len(list(runs.glob('*.log')))}.log", time.monotonic()
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                arguments, stdout=output, stderr=output, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PAUSE": str(PAUSE)} | environment,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def told(self) -> list[str]:
        """The hooks that it came to."""
        return [
            line for line in self.said().splitlines() if line.startswith(("setting", "step", "saving", "validation"))
        ]

    def is_set_up(self) -> bool:
        return bool(self.told())

    def ranks(self) -> list[int]:
        """Its processes, without those that load batches: the first has started the others."""
        own = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        found = [int(each) for each in Path(own).read_text().split()] if Path(own).exists() else []
        return [self.process.pid, *(each for each in found if b"\0LOCAL_RANK=1\0" in _read(each, "environ"))]

    def until(self, done: Callable[..., bool], *arguments: Any, look: float = 0.05) -> bool:
        """Whether it came to this point before its end; looks every so many seconds."""
        while not (there := done(*arguments)) and self.process.poll() is None:
            assert time.monotonic() - self.began < 200, self.said()
            time.sleep(look)
        return there

    def strike(self, kill: Kill) -> None:
        """Send the signals, and see that all ranks end."""
        ranks = self.ranks()
        for number, each in enumerate(kill.signals):
            if number:
                time.sleep(kill.pause)
            _send(each, ranks[kill.whom % len(ranks)] if kill.whom is not None else -self.process.pid)
        begin = time.monotonic()
        while alive := [each for each in ranks if _lives(each)]:
            assert time.monotonic() - begin < LIMIT, f"{alive} of {ranks} live on after {kill}: {self.said()}"
            self.process.poll()  # or it would be there until somebody asks
            time.sleep(0.05)

    def end(self) -> None:
        _send(signal.SIGKILL, -self.process.pid)
        self.process.wait()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _lives(pid: int) -> bool:
    return _read(pid, "stat").rpartition(b") ")[2][:1] not in (b"", b"Z")


def _send(number: int, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class World(NamedTuple):
    """What runs read, where they write, and how long undisturbed ones took from their setup on, in seconds."""

    data: Path
    language: Path
    folder: Path
    elsewhere: Path
    seconds: dict[Case, float]

    def arguments(self, case: Case, runs: Path, *more: str) -> list[str]:
        stage, processes = case
        name, own = EXPERIMENTS[stage]
        for each in [each for each in EXPERIMENTS if any(f"{{{each}}}" in word for word in own)]:
            own = [word.replace(f"{{{each}}}", str(self.whole((each, 1)))) for word in own]
        language = ["--model.rerank=3"] if name == "mini_stage1" else [f"--model.net.language.name={self.language}"]
        two = ["--trainer.devices=2", "--trainer.strategy=auto"] if processes == 2 else []
        return command(name, self.data, runs, STEPS, *language, *own, *two, *more)

    def start(self, case: Case, runs: Path, *more: str, elsewhere: bool = False) -> Started:
        arguments = self.arguments(case, runs, *more)
        place = {"TMPDIR": str(self.elsewhere)} if elsewhere else {}
        return Started(arguments, runs, place)

    def whole(self, case: Case) -> Path:
        """An undisturbed run."""
        runs = self.folder / f"{case[0]} {case[1]}"
        if not runs.exists():
            started = self.start(case, runs)
            assert started.until(started.is_set_up), started.said()
            begin = time.monotonic()
            assert started.process.wait(200) == 0, started.said()
            self.seconds[case] = time.monotonic() - begin
        return newest(runs)


def newest(runs: Path) -> Path:
    """The run that was trained to its end."""
    (run,) = [file.parent for file in runs.glob("*/*/config.yaml") if (step_of(file.parent) or 0) == STEPS]
    return run


@pytest.fixture(scope="module")
def runs(world, opt_folder, tmp_path_factory) -> Iterator[World]:
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield World(world, opt_folder, tmp_path_factory.mktemp("whole"), elsewhere, {})
    shutil.rmtree(elsewhere)


def killed(world: World, case: Case, runs: Path, kill: Kill) -> str:
    """Start or go on, and kill; what happened, in words. A run that came to its end before begins anew."""
    while True:
        started = world.start(case, runs, "--resume", elsewhere=kill.elsewhere)
        try:
            if started.until(started.is_set_up):
                done = max((step_of(file.parent) or 0 for file in runs.glob("*/*/config.yaml")), default=0)
                moment = time.monotonic() + kill.moment * world.seconds[case] * (STEPS - done) / STEPS
                if started.until(_is_due, moment) and (not kill.save or started.until(_is_saving, runs, look=0.005)):
                    started.strike(kill)
                    if status := started.process.wait(5):
                        return f"{kill} at step {done}: status {status} after {started.told()[-1]}"
            assert started.process.wait(LIMIT) == 0, started.said()
        finally:
            started.end()
        print(f"{kill}: too late")
        for each in runs.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        kill = kill._replace(moment=kill.moment / 2)


def _is_due(moment: float) -> bool:
    return time.monotonic() > moment


def _is_saving(runs: Path) -> bool:
    return any(runs.glob("*/*/checkpoints/.*.part-*"))


@pytest.mark.parametrize(("stage", "processes"), CASES)
def test_it_ends_as_if_nothing_had_been(runs, tmp_path, stage, processes):
    case = stage, processes
    whole = runs.whole(case)
    print(f"KILLS_SEED={SEED}")
    for kill in plan(SEED)[case]:
        print(killed(runs, case, tmp_path / "runs", kill))
    started = runs.start(case, tmp_path / "runs", "--resume")
    assert started.process.wait(200) == 0, started.said()
    assert_as_whole(newest(tmp_path / "runs"), whole)


def test_a_slurm_job_of_two_tasks_goes_on_as_if_nothing_had_been(runs, tmp_path):
    """srun sends SIGUSR1 to both; both look for the run at once when the job is started again."""
    whole, cluster = runs.whole(("stage 1", 2)), tmp_path / "cluster"
    environment = slurm(cluster, status=0) | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    arguments = runs.arguments(("stage 1", 2), tmp_path / "runs")
    for restarts in range(2):
        places = ({"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_RESTART_COUNT": str(restarts)} for rank in "01")
        tasks = [Started(arguments, tmp_path / "runs", environment | each) for each in places]
        try:
            if not restarts:
                assert tasks[0].until(lambda: "step 3" in tasks[0].told()), tasks[0].said()  # noqa: B023
                for each in tasks:
                    each.process.send_signal(signal.SIGUSR1)
            wanted = 0 if restarts else 128 + signal.SIGUSR1
            assert [each.process.wait(LIMIT) for each in tasks] == [wanted] * 2, tasks[0].said() + tasks[1].said()
        finally:
            for each in tasks:
                each.end()
    assert (cluster / "asked").read_text() == "requeue 4711_2\n"
    assert_as_whole(newest(tmp_path / "runs"), whole)


def assert_as_whole(run: Path, whole: Path) -> None:
    """To the last bit: what is saved, what was validated, and what was logged."""
    one, two = read_checkpoint(run), read_checkpoint(whole)
    for name in SAVED:
        assert_same(one[name], two[name], name)
    for name in ("metrics.json", "validation.jsonl"):
        assert (run / name).read_text() == (whole / name).read_text(), name
    assert logged(run) == logged(whole)
    assert not list(run.rglob("*.part-*"))


def assert_same(one: Any, two: Any, place: str) -> None:
    assert type(one) is type(two), place
    if isinstance(one, dict):
        assert one.keys() == two.keys(), place
        for name in one:
            assert_same(one[name], two[name], f"{place}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), place
        for number, pair in enumerate(zip(one, two)):
            assert_same(*pair, f"{place}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype and torch.equal(one, two), place
    else:
        assert one == two, place


def logged(run: Path) -> dict[tuple[str, int], str]:
    """The number of each metric and step that its logger has kept, as one curve. A validation that was cut off behind
    its end is logged twice."""
    if not list(run.glob("metrics*.csv")):
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        rows = [(tag, each.step, repr(each.value)) for tag in events.Tags()["scalars"] for each in events.Scalars(tag)]
    else:
        rows = [each for file in run.glob("metrics*.csv") for each in _rows(file)]
    found: dict[tuple[str, int], str] = {}
    for tag, step, value in rows:
        assert not tag.startswith("train/") or (tag, step) not in found, f"{tag} at {step} is there twice"
        assert found.setdefault((tag, step), value) == value
    return found


def _rows(file: Path) -> Iterator[tuple[str, int, str]]:
    """What a part of a log tells of the steps before the one at which training went on, in another part."""
    end = re.fullmatch(r"metrics-to-step-(\d+)(-v\d+)?", file.stem)
    with file.open(newline="") as table:
        for row in csv.DictReader(table):
            step = int(row.pop("step"))
            if end is None or step < int(end[1]):
                yield from ((tag, step, value) for tag, value in row.items() if value)
