"""Binding: is a caption matched to its image rather than to the one with swapped attributes?"""

import numpy as np
import torch

from lit_blip2.evaluation.items import Items


def binding_items(true_P: torch.Tensor, swapped_P: torch.Tensor, images: np.ndarray, ids: np.ndarray) -> Items:
    """1 for each pair whose true image scores higher than the swapped one; a tie counts half, so chance is 0.5.

    images, ids: of the P pairs, the true image and a number of their own. Raises ValueError for nan, no pairs, or
    shapes that differ.
    """
    if true_P.shape != swapped_P.shape or not true_P.numel():
        raise ValueError(
            f"{tuple(true_P.shape)} scores against {tuple(swapped_P.shape)}: equal numbers of pairs are needed"
        )
    if torch.isnan(true_P).any() or torch.isnan(swapped_P).any():
        raise ValueError("a score is nan: no image can be preferred")
    wins, ties = (true_P > swapped_P).double(), (true_P == swapped_P).double()
    return Items((wins + ties / 2).numpy(), images, ids)
