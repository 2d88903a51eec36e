"""How hard each objective pulls at the parameters that all share, and whether two pull the same way.

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
    """Each loss' gradient, averaged over ranks as DDP does, float32 [K, P]; zeros where it does not depend on them.

    Costs a backward for each loss. The graph stays, and no parameter's `.grad` changes.
    """
    rows_KP = []
    for loss in losses.values():
        with torch.autocast(loss.device.type, enabled=False):  # where a training step's backward runs too
            parts = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
        rows_KP.append(torch.cat([part.flatten().float() for part in parts]))
    grads_KP = torch.stack(rows_KP)
    if world_size() > 1:
        dist.all_reduce(grads_KP)
        grads_KP /= world_size()
    return grads_KP


def gradient_metrics(names: Sequence[str], grads_KP: Tensor) -> dict[str, Tensor]:
    """grad_norm_<name> of each objective, grad_cos_<name>_<name> of each two."""
    metrics = {f"grad_norm_{name}": grad_P.norm() for name, grad_P in zip(names, grads_KP, strict=True)}
    for (one, one_P), (two, two_P) in combinations(zip(names, grads_KP, strict=True), 2):
        metrics[f"grad_cos_{one}_{two}"] = F.cosine_similarity(one_P, two_P, dim=0)
    return metrics
