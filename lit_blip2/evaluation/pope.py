"""POPE: does a model say yes to objects that an image does not show? (arXiv 2305.10355)"""

from collections.abc import Sequence

TYPE = "pope"  # of its questions
NO = {"No", "no", "not"}


def yes_or_no(answer: str) -> str:
    """As the official evaluation reads an answer: no where its first sentence has a no or a not, else yes."""
    words = answer.partition(".")[0].replace(",", "").split()
    return "no" if NO & set(words) else "yes"


def pope_scores(said: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 of yes, and how often it is said, 0..1; what divides by nothing is 0.

    Raises ValueError for unequal numbers, for none, and for words other than yes and no.
    """
    if not said or len(said) != len(truths):
        raise ValueError(f"{len(said)} answers for {len(truths)} questions")
    if others := sorted({*said, *truths} - {"yes", "no"}):
        raise ValueError(f"{others[0]!r} is neither yes nor no")
    right = sum(one == two == "yes" for one, two in zip(said, truths))
    claimed, true = said.count("yes"), list(truths).count("yes")
    precision, recall = (right / total if total else 0.0 for total in (claimed, true))
    both = precision + recall
    return {
        "vqa/yes_precision": precision,
        "vqa/yes_recall": recall,
        "vqa/yes_f1": 2 * precision * recall / both if both else 0.0,
        "vqa/yes_share": claimed / len(said),
    }
