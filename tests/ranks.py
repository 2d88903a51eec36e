"""Ranks of a process group on one machine."""

from collections.abc import Callable
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
