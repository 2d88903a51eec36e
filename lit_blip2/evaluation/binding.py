"""Binding accuracy: does a caption score higher with its own image than with one whose attributes are swapped?"""

import numpy as np
import torch

from lit_blip2.evaluation.items import Items


def binding_items(true_P: torch.Tensor, swapped_P: torch.Tensor, images: np.ndarray, ids: np.ndarray) -> Items:
    """For each pair, 1 if the own image scores higher than the swapped one, 0.5 for a tie, else 0. Chance is 0.5.

    Args:
        true_P: scores with the own image, float [P]. swapped_P: scores with the swapped image, float [P].
        images: id of each pair's own image, int64 [P]. ids: id of each pair, int64 [P].
    Raises:
        ValueError: a score is NaN, there are no pairs, or the shapes differ.
    """
    if true_P.shape != swapped_P.shape or not true_P.numel():
        raise ValueError(
            f"{tuple(true_P.shape)} scores against {tuple(swapped_P.shape)}: equal numbers of pairs are needed"
        )
    if torch.isnan(true_P).any() or torch.isnan(swapped_P).any():
        raise ValueError("a score is nan: no image can be preferred")
    wins, ties = (true_P > swapped_P).double(), (true_P == swapped_P).double()
    return Items((wins + ties / 2).numpy(), images, ids)
