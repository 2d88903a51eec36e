"""POPE by hand."""

import numpy as np
import pytest

from lit_blip2.evaluation.pope import is_pope, metrics_of_samplings, pope_items, sampled_items, yes_or_no
from lit_blip2.evaluation.predictions import score


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


def test_each_sampling_has_metrics_of_its_own():
    """Of two samplings one is answered rightly, the other by yes alone; a type that names none counts nowhere."""
    types = ["pope random"] * 2 + ["pope far off"] * 2 + ["pope"]
    said, truths, numbers = ["yes", "no", "yes", "yes", "no"], ["yes", "no", "yes", "no", "yes"], np.arange(5)
    found = {name: each.value() for name, each in sampled_items(said, truths, types, numbers, numbers).items()}
    wanted = {"pope/random_accuracy": 1, "pope/random_yes_f1": 1, "pope/random_yes_share": 0.5}
    wanted |= {"pope/far_off_accuracy": 0.5, "pope/far_off_yes_recall": 1, "pope/far_off_yes_precision": 0.5}
    assert wanted.items() <= found.items() and found["pope/accuracy"] == 0.75
    assert found.keys() == metrics_of_samplings(types) and metrics_of_samplings(["pope"]) == set()
    assert sampled_items(["yes"], ["yes"], ["pope"], numbers[:1], numbers[:1]) == {}
    assert is_pope(types) and not is_pope([*types, "popes"]) and not is_pope([])


def test_a_test_of_one_file_of_samplings_has_popes_metrics_and_its_own():
    rows = [
        dict(task="vqa", image_id=i, question_id=i, question_type=f"pope {kind}", answer=said, answers=[true])
        for i, (kind, said, true) in enumerate([("random", "yes", "yes"), ("popular", "No, none.", "yes")])
    ]
    found = {name: each.value() for name, each in score([row | {"no_image": None} for row in rows]).items()}
    assert found["vqa/accuracy"] == found["pope/accuracy"] == 0.5 == found["vqa/yes_recall"]
    assert found["vqa/type_pope_random"] == found["pope/random_accuracy"] == 1
