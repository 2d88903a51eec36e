"""POPE by hand."""

import numpy as np
import pytest

from lit_blip2.evaluation.pope import pope_items, yes_or_no


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("yes", "yes"), ("Yes, there is a dog.", "yes"), ("no", "no"), ("No, there is not.", "no"),
        ("there is not a dog", "no"), ("It is nothing", "yes"), ("yes. not here", "yes"), ("", "yes"), ("NO", "yes"),
    ],
)  # fmt: skip
def test_answers_are_read_as_officially(answer, meant):
    assert yes_or_no(answer) == meant


def pope_scores(said, truths) -> dict[str, float]:
    """What a run logs."""
    numbers = np.arange(len(said))
    return {name: items.value() for name, items in pope_items(said, truths, numbers, numbers).items()}


def test_figures_by_hand():
    found = pope_scores(["yes", "yes", "yes", "no"], ["yes", "no", "yes", "yes"])
    assert found == pytest.approx(
        {"vqa/yes_precision": 2 / 3, "vqa/yes_recall": 2 / 3, "vqa/yes_f1": 2 / 3, "vqa/yes_share": 0.75}
    )
    assert pope_scores(["no"], ["no"]) == dict.fromkeys(found, 0.0)


def test_what_is_no_answer_is_named():
    with pytest.raises(ValueError, match="'maybe' is neither yes nor no"):
        pope_scores(["maybe"], ["yes"])
    with pytest.raises(ValueError, match="1 answers for 2 questions"):
        pope_scores(["yes"], ["yes", "no"])
