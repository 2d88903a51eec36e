"""POPE: does a model say yes to objects that an image does not show? (arXiv 2305.10355)"""

from collections.abc import Sequence

import numpy as np

from lit_blip2.evaluation.items import Items

TYPE = "pope"  # of its questions
NO = {"No", "no", "not"}


def yes_or_no(answer: str) -> str:
    """As the official evaluation reads an answer: no where its first sentence has a no or a not, else yes."""
    words = answer.partition(".")[0].replace(",", "").split()
    return "no" if NO & set(words) else "yes"


def pope_items(said: Sequence[str], truths: Sequence[str], images: np.ndarray, ids: np.ndarray) -> dict[str, Items]:
    """What makes precision, recall and F1 of yes, and how often it is said, 0..1; what divides by nothing is 0.

    images, ids: of the questions. Raises ValueError for unequal numbers, for none, and for words other than yes and no.
    """
    if not said or len(said) != len(truths):
        raise ValueError(f"{len(said)} answers for {len(truths)} questions")
    if others := sorted({*said, *truths} - {"yes", "no"}):
        raise ValueError(f"{others[0]!r} is neither yes nor no")
    claimed, true = ((np.array(words) == "yes").astype(float) for words in (said, truths))
    right = claimed * true
    fractions = {
        "precision": (right, claimed),
        "recall": (right, true),
        "f1": (2 * right, claimed + true),
        "share": (claimed, np.ones(len(said))),
    }
    return {f"vqa/yes_{name}": Items(np.stack(each, 1), images, ids) for name, each in fractions.items()}
