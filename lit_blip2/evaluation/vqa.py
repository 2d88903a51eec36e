"""VQAv2's accuracy, exactly as in the official evaluation code, or as in LAVIS' copy of it.

An answer scores min(1, annotators who gave it / 3), averaged over the ten ways to leave one annotator out: 0, .3, .6,
.9 and 1 if 0, 1, 2, 3 or more of ten gave it. Texts are normalised (case, punctuation, articles, number words,
apostrophes) only if the annotators disagree: if all ten say "cat", "The Cat" is wrong.

LAVIS gave the paper's scores on OK-VQA and VQAv2-val. It always normalises the prediction, so "The Cat" is right there.
If annotators disagree, it strips only the punctuation of their answers, so their "Cat", "the cat" and "two" are never
matched. A single answer, as in GQA, is compared as written.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

Scoring = Literal["official", "lavis"]
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official code passes a flag where re.sub takes a count
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0"} | {
    word: str(i)
    for i, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
}
# If one of these lacks an apostrophe, it gets it back. Forms with a capital I never match lower-cased text.
_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
_CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    word[: mark.start()] + word[mark.end() :]: word for word in _APOSTROPHES for mark in re.finditer("'", word)
}


def vqa_scores(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], scoring: Scoring = "official"
) -> list[float]:
    """The accuracy of each prediction against its annotators' answers, 0..1.

    With one answer, as in GQA, nobody can be left out: the accuracy is 1 if the two are equal as the rules compare
    them.

    Raises ValueError for unequal numbers, or a question without an answer.
    """
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} questions")
    if alone := [i for i, given in enumerate(answers) if not given]:
        raise ValueError(f"question {alone[0]} has no answer")
    compare = {"official": _as_official, "lavis": _as_lavis}[scoring]
    return [_score(*compare(prediction, given)) for prediction, given in zip(predictions, answers)]


def type_metric(name: str) -> str:
    """Name of the accuracy on one type of question."""
    return f"vqa/type_{'_'.join(name.split())}"


@lru_cache(maxsize=65536)  # annotators repeat each other
def normalise(text: str) -> str:
    """An answer as the official evaluation compares it, once annotators disagree."""
    words = [_NUMBERS.get(word, word) for word in _strip_punctuation(text).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _as_official(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """Prediction and answers as the official evaluation compares them."""
    prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(answers) == 1 or len(set(answers)) > 1:
        return normalise(prediction), [normalise(answer) for answer in answers]
    return prediction, answers


def _as_lavis(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """Prediction and answers as LAVIS compares them."""
    disagree = len(set(answers)) > 1
    return normalise(_one_line(prediction)), [_strip_punctuation(each) if disagree else each for each in answers]


def _score(prediction: str, answers: Sequence[str]) -> float:
    """The accuracy of a prediction, from texts that are ready to be compared."""
    total, same = len(answers), answers.count(prediction)
    if total == 1:
        return float(same)
    # Leaving out one of the `same` that agree leaves same - 1 of them; leaving out any other leaves all.
    return (same * min(1, max(same - 1, 0) / 3) + (total - same) * min(1, same / 3)) / total


def _strip_punctuation(text: str) -> str:
    """Remove punctuation. A mark that stands beside a space anywhere in the text is deleted, and so is every mark if
    the text has a number with a comma. Else it becomes a space."""
    stripped, has_number = text, _COMMA_IN_NUMBER.search(text)
    for mark in _PUNCTUATION:
        vanishes = has_number or f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", stripped, count=_MAX_PERIODS)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
