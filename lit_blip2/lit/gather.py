"""Predictions of all ranks, once each."""

from typing import Any

import torch.distributed as dist

from lit_blip2.distributed import world_size


def gather_lists(items: list[Any]) -> list[Any]:
    """Picklable items of all ranks, in rank order; the same list on one process."""
    if world_size() == 1:
        return items
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
