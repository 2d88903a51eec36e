"""Linear probes against fits that are made again without each image, and by hand.

Legend: N training images, M other images, D features, C classes.
"""

import numpy as np
import pytest
import torch

from lit_blip2.evaluation import probes
from lit_blip2.evaluation.probes import balanced_items, occurs, probed

IMAGES, OTHERS, WIDTH, KINDS = 40, 30, 6, 3


def some(seed: int = 0):
    """Features with a scale and a mean each, labels that depend on them, and other features."""
    rng = np.random.default_rng(seed)
    scale_D, mean_D = rng.uniform(0.1, 10, WIDTH), rng.normal(size=WIDTH) * 5
    train_ND, other_MD = (rng.normal(size=(rows, WIDTH)) for rows in (IMAGES, OTHERS))
    labels_NC = train_ND @ rng.normal(size=(WIDTH, KINDS)) + rng.normal(size=(IMAGES, KINDS)) > 0.7
    return [torch.from_numpy(each) for each in (train_ND * scale_D + mean_D, labels_NC, other_MD * scale_D + mean_D)]


def ridge(x_ND: np.ndarray, y_N: np.ndarray, penalty: float) -> np.ndarray:
    """Weights of standardised features over root D and of an intercept, all penalised, by least squares."""
    design = np.concatenate([x_ND, np.sqrt(penalty) * np.eye(x_ND.shape[1])])
    return np.linalg.lstsq(design, np.concatenate([y_N, np.zeros(x_ND.shape[1])]), rcond=None)[0]


def by_refitting(train_ND, labels_NC, other_MD) -> np.ndarray:
    mean_D, std_D = train_ND.mean(0), train_ND.std(0)
    train, other = (
        np.concatenate([(each - mean_D) / std_D / WIDTH**0.5, np.ones((len(each), 1))], 1)
        for each in (train_ND, other_MD)
    )
    said = []
    for y_N in labels_NC.T.astype(float):
        kept = np.arange(IMAGES)
        left_out = {
            penalty: np.array([train[i] @ ridge(train[kept != i], y_N[kept != i], penalty) for i in kept])
            for penalty in probes.PENALTIES
        }
        penalty = min(left_out, key=lambda each: ((left_out[each] - y_N) ** 2).mean())
        scores = np.sort(left_out[penalty])[::-1]
        cuts = np.append((scores[:-1] + scores[1:]) / 2, scores[-1] - 0.5)
        yes = left_out[penalty] > cuts[:, None]
        gains = yes[:, y_N == 1].mean(1) + (~yes)[:, y_N == 0].mean(1)
        said.append(other @ ridge(train, y_N, penalty) > cuts[gains.argmax()])
    return np.stack(said, 1)


@pytest.mark.parametrize("seed", range(3))
def test_probes_are_those_of_fits_without_each_image(seed):
    train_ND, labels_NC, other_MD = some(seed)
    wanted_MC = by_refitting(train_ND.numpy(), labels_NC.numpy(), other_MD.numpy())
    assert (probed(train_ND, labels_NC, other_MD).numpy() == wanted_MC).all() and 0 < wanted_MC.mean() < 1


def test_scale_mean_and_idle_features_do_not_matter():
    train_ND, labels_NC, other_MD = some()
    idle = torch.full((IMAGES, WIDTH), 3.0, dtype=torch.float64), torch.full((OTHERS, WIDTH), 7.0, dtype=torch.float64)
    wide = [torch.cat([each * 100 - 4, more], 1) for each, more in zip((train_ND, other_MD), idle)]
    assert (probed(wide[0], labels_NC, wide[1]) == probed(train_ND, labels_NC, other_MD)).all()


def test_features_that_say_nothing_give_chance():
    _, labels_NC, _ = some()
    said_MC = probed(torch.ones(IMAGES, 2), labels_NC, torch.ones(OTHERS, 2))
    assert (said_MC == said_MC[:1]).all()
    truth_MC = torch.arange(OTHERS)[:, None] % torch.tensor([2, 3, 5]) == 0
    items = balanced_items(said_MC, truth_MC, torch.arange(OTHERS), torch.arange(KINDS), KINDS)
    assert items.value() == 0.5


def test_balanced_accuracy_by_hand():
    """Class 4 is told of 1 of 2 that have it and 1 of 1 that has not, class 9 of 0 of 1 and 1 of 2."""
    truth_MC = torch.tensor([[1, 0], [1, 0], [0, 1]]).bool()
    said_MC = torch.tensor([[1, 0], [0, 1], [0, 0]]).bool()
    items = balanced_items(said_MC, truth_MC, torch.tensor([7, 8, 9]), torch.tensor([4, 9]), 10)
    assert items.value() == pytest.approx(((1 / 2 + 1) / 2 + (0 + 1 / 2) / 2) / 2)
    assert items.ids.tolist() == [74, 79, 84, 89, 94, 99] and items.images.tolist() == [7, 7, 8, 8, 9, 9]


def test_a_class_needs_a_yes_and_a_no_on_both_sides():
    labels_NC = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]]).bool()
    truth_MC = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]).bool()
    assert occurs(labels_NC, truth_MC).tolist() == [True, False, False, False]


def test_features_that_are_not_finite_are_refused():
    train_ND, labels_NC, other_MD = some()
    other_MD[3, 1] = torch.nan
    with pytest.raises(ValueError, match="features are not finite: they cannot be probed"):
        probed(train_ND, labels_NC, other_MD)
