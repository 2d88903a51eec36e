"""What all ranks have, once each: predictions as they are, rows of tensors without pickling them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lit_blip2.distributed import world_size


def gather_lists(items: list[Any]) -> list[Any]:
    """Picklable items of all ranks, in rank order; the same list on one process."""
    if world_size() == 1:
        return items
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def gather_rows(parts: list[Tensor], device: torch.device) -> Tensor | None:
    """Rows [R, ...] of the parts of all ranks, in rank order, on the CPU; None where nobody has a part.

    Args: parts of one dtype and shape but for R; a rank may have none. device: where this rank's collectives work.
    """
    rows = torch.cat(parts) if parts else None
    if world_size() == 1:
        return rows
    shapes = gather_lists([None if rows is None else (rows.shape, rows.dtype)])
    if not any(shapes):
        return None
    (shape, dtype), longest = next(filter(None, shapes)), max(each[0][0] for each in shapes if each)
    padded = torch.zeros(longest, *shape[1:], dtype=dtype, device=device)
    if rows is not None:
        padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(gathered, padded)
    return torch.cat([each[: shape[0][0]].cpu() for each, shape in zip(gathered, shapes) if shape])
