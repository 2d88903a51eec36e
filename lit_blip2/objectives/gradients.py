"""Norms of the objectives' gradients on shared parameters, and cosines between them.

Legend: K objectives, P numbers in the shared parameters.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.distributed import world_size


def gradients(losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> Tensor:
    """Gradient of each loss on the shared parameters, averaged over ranks as in DDP: float32 [K, P].

    Parameters that a loss does not depend on get zeros. Costs one backward pass per loss. The graph is kept, and no
    parameter's `.grad` changes.
    """
    rows_KP = []
    for loss in losses.values():
        with torch.autocast(loss.device.type, enabled=False):  # as in a training step's backward
            parts = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
        rows_KP.append(torch.cat([part.flatten().float() for part in parts]))
    grads_KP = torch.stack(rows_KP)
    if world_size() > 1:
        dist.all_reduce(grads_KP)
        grads_KP /= world_size()
    return grads_KP


def gradient_metrics(names: Sequence[str], grads_KP: Tensor) -> dict[str, Tensor]:
    """grad_norm_<name> for each objective, grad_cos_<one>_<other> for each two; scalars."""
    metrics = {f"grad_norm_{name}": grad_P.norm() for name, grad_P in zip(names, grads_KP, strict=True)}
    for (one, one_P), (two, two_P) in combinations(zip(names, grads_KP, strict=True), 2):
        metrics[f"grad_cos_{one}_{two}"] = F.cosine_similarity(one_P, two_P, dim=0)
    return metrics
