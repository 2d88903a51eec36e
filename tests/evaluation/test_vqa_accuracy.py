import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_blip2.evaluation.vqa import normalise, vqa_scores


def leave_one_out(prediction, answers):
    """The definition, spelt out: agreement with every nine of ten, averaged."""
    parts = []
    for i in range(len(answers)):
        others = answers[:i] + answers[i + 1 :]
        parts.append(min(1, sum(other == prediction for other in others) / 3))
    return sum(parts) / len(parts)


@pytest.mark.parametrize(("agree", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_scores_of_ten_annotators(agree, score):
    assert vqa_scores(["cat"], [["cat"] * agree + ["dog"] * (10 - agree)]) == [pytest.approx(score)]


words = st.sampled_from(["red", "blue", "green"])


@given(words, st.lists(words, min_size=2, max_size=12))
def test_equals_the_definition(prediction, answers):
    assert vqa_scores([prediction], [answers])[0] == pytest.approx(leave_one_out(prediction, answers))


def test_every_split_of_ten_between_two_answers():
    for answers in itertools.product("ab", repeat=10):
        assert vqa_scores(["a"], [list(answers)])[0] == pytest.approx(leave_one_out("a", list(answers)))


def test_normalises_only_where_annotators_disagree():
    assert vqa_scores(["The Cat"], [["cat"] * 10]) == [0]
    assert vqa_scores(["The Cat"], [["cat"] * 9 + ["dog"]]) == [1]
    assert vqa_scores(["cat\n"], [["cat "] * 10]) == [1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("black/white", "black white"),
        ("two", "2"),
        ("dont", "don't"),
        ("a man's hat", "man's hat"),
        ("none", "0"),
        ("The Cat", "cat"),
        ("left - right", "left right"),
        ("1,000 - 2/3", "1000 23"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),
        ("lets", "lets"),
        ("wow!!", "wow"),
        ("it: is", "it: is"),
        ("", ""),
    ],
)
def test_normalisation(text, expected):
    assert normalise(text) == expected


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match="1 predictions for 2"):
        vqa_scores(["a"], [["a"] * 10] * 2)
    with pytest.raises(ValueError, match="question 1 has no answer"):
        vqa_scores(["a", "a"], [["a"] * 10, []])


def test_the_one_answer_of_gqa_is_matched_as_it_is_meant():
    given = ["The Cat.", "two", "cats", "left"]
    assert vqa_scores(given, [["cat"], ["2"], ["cat"], ["right"]]) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("prediction", "answers", "official", "lavis"),
    [
        ("The Cat", ["cat"] * 10, 0, 1),  # all agree: the official code compares as written
        ("two", ["2"] * 10, 0, 1),
        ("cat", ["The Cat"] * 10, 0, 0),
        ("The Cat", ["cat"] * 9 + ["dog"], 1, 1),
        ("cat", ["the cat"] * 9 + ["dog"], 1, 0),  # annotators keep their articles, capitals and numbers
        ("2", ["two"] * 2 + ["Two"] * 7 + ["dog"], 1, 0),
        ("t shirt", ["t-shirt"] * 9 + ["dog"], 1, 1),  # and lose their punctuation
        ("yes", ["yes "] * 10, 1, 0),
        ("a dog.", ["dog"], 1, 1),
        ("dog", ["a dog"], 1, 0),  # one answer, as in GQA
    ],
)
def test_lavis_normalises_the_prediction_always_and_annotators_hardly(prediction, answers, official, lavis):
    assert vqa_scores([prediction], [answers]) == [official]
    assert vqa_scores([prediction], [answers], "lavis") == [lavis]
