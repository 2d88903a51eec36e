"""What forgetting is made of: by hand, and in a run.

Legend: L targets, V vocabulary.
"""

import pytest
import torch

from lit_blip2.mini import forgetting
from lit_blip2.mini.forgetting import answer_mass, constancy, opens_as_caption, other_images


def test_captions_open_otherwise_than_answers():
    assert all(map(opens_as_caption, ("a red ring", "Photo of red ring", "the photo", "an orange star")))
    assert not any(map(opens_as_caption, ("", "red", "yes", "top left", "4")))
    assert not {each.split()[0] for each in forgetting.ANSWERS} & forgetting.OPENINGS


@pytest.mark.parametrize(
    ("ids", "others"),
    [([1, 2, 3, 4], [2, 3, 0, 1]), ([1, 1, 1, 2], [3, 3, 3, 1]), ([5, 5], [0, 1]), ([7], [0])],
)
def test_another_images_soft_prompt(ids, others):
    assert other_images(ids) == others


def test_constancy_of_two_ranks_by_hand():
    """Vectors (3, 4), (3, -4) on one rank and (6, 0) on the other: mean (4, 0), mean norm 16 / 3."""
    sums = [(torch.tensor([6.0, 0.0]), 10.0, 2), (torch.tensor([6.0, 0.0]), 6.0, 1)]
    assert constancy(sums) == pytest.approx(4 / (16 / 3))
    assert constancy([(torch.tensor([4.0]), 4.0, 2), (torch.zeros(1), 0.0, 0)]) == 1.0


class Language:
    """Two prompts, targets of two tokens each; tokens 1 and 2 open answers."""

    def words_to_learn(self, targets, after_words):
        return [[1 + place % 2] for place, _ in enumerate(targets)]

    def tokenise(self, prompts, targets):
        return torch.zeros(0)

    def logits(self, prefix_BPD, text):
        logits_LV = torch.tensor([[0.5, 0.25, 0.25], [1, 1e-9, 1e-9], [0.2, 0.8, 1e-9], [1, 1e-9, 1e-9]]).log()
        return logits_LV, torch.tensor([0, 0, 1, 1])


def test_the_probability_of_answers_is_of_the_first_word():
    assert answer_mass(Language(), torch.zeros(2, 1, 1), ["a", "b"]) == pytest.approx([0.5, 0.8])
