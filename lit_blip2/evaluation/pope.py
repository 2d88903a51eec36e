"""POPE: does a model say yes to objects that an image does not show? (arXiv 2305.10355)

Its questions come by three samplings of what is asked for, a file each; in a file of several each row names its own.
"""

from collections.abc import Collection, Sequence

import numpy as np

from lit_blip2.evaluation.items import Items

TYPE = "pope"  # of its questions; where rows name their sampling, that stands behind: "pope random"
FRACTIONS = ("precision", "recall", "f1", "share")  # of yes
ALL = "pope/accuracy"  # of all samplings in one file
NO = {"No", "no", "not"}


def yes_or_no(answer: str) -> str:
    """As the official evaluation reads an answer: no where its first sentence has a no or a not, else yes."""
    words = answer.partition(".")[0].replace(",", "").split()
    return "no" if NO & set(words) else "yes"


def is_pope(types: Collection[str]) -> bool:
    """Whether questions of these types are all POPE's."""
    return bool(types) and all(name.partition(" ")[0] == TYPE for name in types)


def metrics_of_samplings(types: Collection[str]) -> set[str]:
    """What `sampled_items` gives of questions of these types."""
    begins = _samplings(types).values()
    found = {f"{begin}{name}" for begin in begins for name in ("accuracy", *(f"yes_{name}" for name in FRACTIONS))}
    return found | ({ALL} if found else set())


def _samplings(types: Collection[str]) -> dict[str, str]:
    """Type -> what its metrics begin with, `pope/random_`, of those that name a sampling."""
    named = [name for name in sorted(set(types)) if name.startswith(f"{TYPE} ")]
    return {name: f"pope/{'_'.join(name.split()[1:])}_" for name in named}


def pope_items(
    said: Sequence[str], truths: Sequence[str], images: np.ndarray, ids: np.ndarray, begin: str = "vqa/"
) -> dict[str, Items]:
    """What makes precision, recall and F1 of yes, and how often it is said, 0..1; what divides by nothing is 0.

    images, ids: of the questions. begin: of the metrics' names.
    Raises ValueError for unequal numbers, for none, and for words other than yes and no.
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
    """The same of each sampling by itself, and its accuracy; pope/accuracy of all questions that name one. Nothing
    where none does."""
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
