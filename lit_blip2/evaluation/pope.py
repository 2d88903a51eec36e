"""POPE: does a model say yes to objects that an image does not show? (arXiv 2305.10355)

The objects asked for are sampled in three ways (random, popular, adversarial), one file each. In a file with several
samplings, each row names its sampling.
"""

from collections.abc import Collection, Sequence

import numpy as np

from lit_blip2.evaluation.items import Items

TYPE = "pope"  # type of its questions; a sampling that rows name follows: "pope random"
FRACTIONS = ("precision", "recall", "f1", "share")  # of yes
ALL = "pope/accuracy"  # of all samplings in one file
NO = {"No", "no", "not"}


def yes_or_no(answer: str) -> str:
    """The answer as the official evaluation reads it: "no" if its first sentence holds "no" or "not", else "yes"."""
    words = answer.partition(".")[0].replace(",", "").split()
    return "no" if NO & set(words) else "yes"


def is_pope(types: Collection[str]) -> bool:
    """Whether all of these question types are POPE's."""
    return bool(types) and all(name.partition(" ")[0] == TYPE for name in types)


def metrics_of_samplings(types: Collection[str]) -> set[str]:
    """The metric names that `sampled_items` returns for questions of these types."""
    begins = _samplings(types).values()
    found = {f"{begin}{name}" for begin in begins for name in ("accuracy", *(f"yes_{name}" for name in FRACTIONS))}
    return found | ({ALL} if found else set())


def _samplings(types: Collection[str]) -> dict[str, str]:
    """Type -> start of its metric names, such as `pope/random_`, for types that name a sampling."""
    named = [name for name in sorted(set(types)) if name.startswith(f"{TYPE} ")]
    return {name: f"pope/{'_'.join(name.split()[1:])}_" for name in named}


def pope_items(
    said: Sequence[str], truths: Sequence[str], images: np.ndarray, ids: np.ndarray, begin: str = "vqa/"
) -> dict[str, Items]:
    """Per-example values of precision, recall and F1 of yes, and of the share of yes, 0..1. A ratio with denominator 0
    is 0.

    Args:
        said, truths: "yes" or "no". images, ids: image id and id of each question. begin: start of the metric names.
    Raises:
        ValueError: unequal numbers, no questions, or words other than yes and no.
    """
    if not said or len(said) != len(truths):
        raise ValueError(f"{len(said)} answers for {len(truths)} questions")
    if others := sorted({*said, *truths} - {"yes", "no"}):
        raise ValueError(f"{others[0]!r} is neither yes nor no")
    claimed, true = ((np.array(words) == "yes").astype(float) for words in (said, truths))
    right = claimed * true
    pairs = (right, claimed), (right, true), (2 * right, claimed + true), (claimed, np.ones(len(said)))
    return {f"{begin}yes_{name}": Items(np.stack(each, 1), images, ids) for name, each in zip(FRACTIONS, pairs)}


def sampled_items(
    said: Sequence[str], truths: Sequence[str], types: Sequence[str], images: np.ndarray, ids: np.ndarray
) -> dict[str, Items]:
    """The metrics of `pope_items` and the accuracy for each sampling, and pope/accuracy of all questions that name a
    sampling. Empty if none does."""
    found, right = {}, (np.array(said) == np.array(truths)).astype(float)
    named = _samplings(types)
    for name, begin in named.items():
        rows = np.flatnonzero(np.array(types) == name)
        own = [[words[row] for row in rows] for words in (said, truths)]
        found[f"{begin}accuracy"] = Items(right[rows], images[rows], ids[rows])
        found |= pope_items(*own, images[rows], ids[rows], begin)
    if named:
        rows = np.isin(types, list(named))
        found[ALL] = Items(right[rows], images[rows], ids[rows])
    return found
