"""Ranks of a process group on one machine: forks of this process, or commands of their own."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(count: int, folder: Path, function: Callable, *arguments) -> list:
    """What `function(rank, *arguments)` returns on each rank, by way of files in `folder`.

    Ranks are forks of this process: a new Python would spend more on importing torch than these tests on their work.
    """
    mp.start_processes(_rank, (count, folder, function, arguments), nprocs=count, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, folder: Path, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


@contextmanager
def commands(folder: Path) -> Iterator[Callable[..., list[subprocess.Popen]]]:
    """A function that starts `lit_blip2` once for each list of arguments, as ranks of one run where they are several;
    what each says goes to `folder`/RANK.err. All are killed at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    started = []

    def start(arguments: list[list[str]], told: list[dict[str, str]]) -> list[subprocess.Popen]:
        for number, (own, more) in enumerate(zip(arguments, told, strict=True)):
            place = {"LOCAL_RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            told_all = os.environ | (place if len(arguments) > 1 else {}) | more
            command = [sys.executable, "-m", "lit_blip2", *own]
            with (folder / f"{number}.err").open("w") as errors:
                started.append(subprocess.Popen(command, env=told_all, stderr=errors, stdout=errors))
        return started

    try:
        yield start
    finally:
        for each in started:
            each.kill()
            each.wait()
