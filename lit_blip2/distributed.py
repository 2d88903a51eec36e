"""Collectives that are the identity on one process.

Convention: every rank returns a loss whose gradient, averaged over ranks as DDP does, is the gradient of the loss of
the global batch. `gather` therefore sends the sum of all ranks' gradients back to the row's owner, and
`global_mean` divides a local sum by the global count, times the number of ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


def world_size() -> int:
    """Number of ranks; 1 without a process group, and inside `single_process()`."""
    return dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank; 0 where `world_size` is 1."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def single_process() -> Iterator[None]:
    """Inside, no collective runs: for evaluation, where ranks may hold different numbers of batches."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


class _Gather(torch.autograd.Function):
    # torch's own differentiable gather has one name in torch 2.11, another in 2.14; the public one warns of its end.

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        parts = grad.contiguous().chunk(dist.get_world_size())
        mine = torch.empty_like(parts[0])
        dist.reduce_scatter(mine, list(parts))
        return mine


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, [world * B, ...], with gradient. Every rank must bring the same shape."""
    return _Gather.apply(x) if world_size() > 1 else x


def global_mean(sum_: Tensor, count: Tensor) -> Tensor:
    """Local sum over global count, scaled so that DDP's average over ranks is the global mean; 0 for count 0."""
    count = count.detach().to(sum_.dtype).clone()
    if world_size() > 1:
        dist.all_reduce(count)
    return world_size() * sum_ / count.clamp(min=1)


def own_mean(sum_: Tensor, count: Tensor) -> Tensor:
    """Local sum over local count: DDP's average over ranks is then the mean of the ranks' means; 0 for count 0."""
    return sum_ / count.detach().to(sum_.dtype).clamp(min=1)


def gather_lists(items: list[Any]) -> list[Any]:
    """Picklable items of all ranks, in rank order; the same list on one process."""
    if world_size() == 1:
        return items
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows [R, ...] of each rank, in rank order, on the device of `rows`; torchmetrics calls this a dist_sync_fn.

    Ranks may differ in R, and one without rows may bring an empty tensor of any shape and dtype. With NCCL, rows on the
    CPU pass through the GPU. group: a process group, None for all ranks.
    """
    if world_size() == 1:
        return [rows]
    shapes: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(shapes, (rows.shape, rows.dtype) if rows.numel() else None, group=group)
    if not any(shapes):
        return [rows] * len(shapes)
    (_, *shape), dtype = next(filter(None, shapes))
    counts = [each[0][0] if each else 0 for each in shapes]
    padded = torch.zeros(max(counts), *shape, dtype=dtype, device=_collective_device(rows, group))
    if rows.numel():
        padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(gathered, padded, group=group)
    return [each[:count].to(rows.device) for each, count in zip(gathered, counts)]


def _collective_device(rows: Tensor, group: Any) -> torch.device:
    """The device on which a backend gathers rows."""
    backend = dist.get_backend(group)
    if backend == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if backend == "gloo" else rows.device
