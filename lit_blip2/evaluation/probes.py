"""Linear probes: what can be read off an image's features by a linear map, one class at a time.

A class is a yes or no about an image, such as a red object at the top left. Its probe is a ridge regression of yes (1)
and no (0) on features of mean 0 and standard deviation 1, in closed form and for all classes at once. Penalty and
threshold of each class are chosen on the training images by leave-one-out: the penalty with the least squared error,
then the threshold with the best balanced accuracy. The residual of a left-out image is its residual in the whole fit
divided by a number that this fit gives (Allen, The relationship between variable selection and data augmentation,
Technometrics 16, 1974), so nothing is fitted again.

The metric is the balanced accuracy on other images, the mean of two shares: of yes and of no that are recognised.
Chance is .5, however rare a class is. It compares features of any width, as wide ones get the larger penalty.

Legend: N training images, M other images, D features, C classes.
"""

import numpy as np
import torch
from torch import Tensor

from lit_blip2.evaluation.items import Items

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # added to the kernel's diagonal, which is about 2


def probed(train_ND: Tensor, labels_NC: Tensor, other_MD: Tensor) -> Tensor:
    """The probes' answers on other images, bool [M, C].

    Args: features of training images, their labels (bool), features of other images.
    Raises ValueError for features that are not finite.
    """
    if not (train_ND.isfinite().all() and other_MD.isfinite().all()):
        raise ValueError("features are not finite: they cannot be probed")
    train_ND, other_MD = _standardised(train_ND, other_MD)
    # The 1 is a feature that all images share: the intercept.
    width = max(train_ND.shape[1], 1)
    kernel_NN, cross_MN = ((each @ train_ND.T / width + 1).double() for each in (train_ND, other_MD))
    truth_NC = labels_NC.double()
    fits = [_ridge(kernel_NN, cross_MN, truth_NC, penalty) for penalty in PENALTIES]
    errors_PC = torch.stack([(left_out_NC - truth_NC).square().mean(0) for left_out_NC, _ in fits])
    best_1C = errors_PC.argmin(0)[None]
    left_out_NC, said_MC = (torch.stack(each, -1).take_along_dim(best_1C[..., None], -1)[..., 0] for each in zip(*fits))
    return said_MC > _thresholds(left_out_NC, labels_NC)


def _standardised(train_ND: Tensor, other_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Features scaled by the training images' mean and standard deviation, without those that do not vary there."""
    mean_D, std_D = train_ND.mean(0), train_ND.std(0, correction=0)
    varies_D = std_D > 1e-6 * mean_D.abs() + 1e-12
    train_ND, other_MD = (((each - mean_D) / std_D)[:, varies_D] for each in (train_ND, other_MD))
    return train_ND, other_MD


def _ridge(kernel_NN: Tensor, cross_MN: Tensor, truth_NC: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Scores [N, C] of the training images, each by the fit without it, and scores [M, C] of the others."""
    inverse_NN = torch.cholesky_inverse(
        torch.linalg.cholesky(kernel_NN + penalty * torch.eye(len(kernel_NN), dtype=kernel_NN.dtype))
    )
    weights_NC = inverse_NN @ truth_NC
    return truth_NC - weights_NC / inverse_NN.diagonal()[:, None], cross_MN @ weights_NC


def _thresholds(scores_NC: Tensor, labels_NC: Tensor) -> Tensor:
    """The threshold of each class with the best balanced accuracy of these scores, float [C]; scores above it say
    yes."""
    scores_NC, order_NC = scores_NC.sort(0, descending=True)
    yes_NC = labels_NC.take_along_dim(order_NC, 0).double()
    gain_NC = yes_NC.cumsum(0) / yes_NC.sum(0) - (1 - yes_NC).cumsum(0) / (1 - yes_NC).sum(0)
    last_1C = gain_NC.argmax(0)[None]  # the lowest score that says yes
    next_NC = torch.cat([scores_NC[1:], scores_NC[-1:] - 1])
    return (scores_NC.take_along_dim(last_1C, 0) + next_NC.take_along_dim(last_1C, 0))[0] / 2


def occurs(labels_NC: Tensor, truth_MC: Tensor) -> Tensor:
    """Bool [C]: classes that have both a yes and a no, among the training images and among the others."""
    return torch.stack([each for of in (labels_NC, truth_MC) for each in (of.any(0), (~of).any(0))]).all(0)


def balanced_items(said_MC: Tensor, truth_MC: Tensor, image_ids_M: Tensor, classes_C: Tensor, total: int) -> Items:
    """The items of the balanced accuracy, mean over classes.

    Args: answers and truth, bool; ids of the images, int64; numbers of the classes, int64; number of all classes.
    """
    right_MC = (said_MC == truth_MC).double()
    image_MC = image_ids_M[:, None].expand_as(right_MC)
    strata_MC = 2 * classes_C + truth_MC  # the yes and the no of each class
    columns = right_MC, image_MC, image_MC * total + classes_C, strata_MC
    return Items(*(np.ascontiguousarray(each.flatten().numpy()) for each in columns))
