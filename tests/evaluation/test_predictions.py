"""Rows of predictions to figures with intervals, and to the files of evaluation servers."""

import json

import pytest

from lit_blip2.evaluation.items import interval, paired_interval
from lit_blip2.evaluation.predictions import score, submit
from lit_blip2.evaluation.vqa import vqa_scores


def answer(number, given, answers=("dog",) * 10, kind="what", blind=None, image=None):
    return {
        "task": "vqa", "image_id": number if image is None else image, "question_id": number, "question": "?",
        "question_type": kind, "answers": list(answers), "answer": given, "no_image": blind,
    }  # fmt: skip


def caption(number, text, references=("a dog runs", "a cat sits"), **more):
    return {"task": "caption", "image_id": number, "caption": text, "references": list(references), **more}


def plainly(rows, said: str) -> dict[str, float]:
    """Accuracy over all questions, over each type, and the mean over types."""
    scores = vqa_scores([row[said] for row in rows], [row["answers"] for row in rows])
    types = [row["question_type"] for row in rows]
    of = {kind: [each for each, own in zip(scores, types) if own == kind] for kind in types}
    means = {f"vqa/type_{'_'.join(kind.split())}": sum(own) / len(own) for kind, own in of.items()}
    every = {"vqa/accuracy": sum(scores) / len(scores), "vqa/mean_over_types": sum(means.values()) / len(means)}
    return every | means


def test_every_type_has_the_same_weight():
    rows = [answer(number, "dog", ["dog"] * 10, kind="what color") for number in range(3)]
    rows.append(answer(3, "cat", ["dog"] * 10, kind="count"))
    found = {name: items.value() for name, items in score(rows).items()}
    wanted = {"vqa/accuracy": 0.75, "vqa/mean_over_types": 0.5, "vqa/type_count": 0, "vqa/type_what_color": 1}
    assert found == pytest.approx(wanted)


def test_answers_have_the_figures_of_the_plain_metrics():
    rows = [answer(1, "dog"), answer(2, "cat", blind="dog"), answer(3, "dog", kind="is", image=2), answer(4, "two")]
    rows = [row | {"no_image": "dog" if number % 2 else "cat"} for number, row in enumerate(rows)]
    found = {name: items.value() for name, items in score(rows).items()}
    blind = plainly(rows, "no_image")["vqa/mean_over_types"]
    assert found == pytest.approx({**plainly(rows, "answer"), "vqa/no_image": blind}, rel=1e-12)


def test_pope_has_intervals_and_is_compared():
    """A run that always says yes recalls all in every draw, and all more than one that says no where it is true."""
    asked = [(number, ["yes" if number % 2 else "no"]) for number in range(200)]
    all_yes = score([answer(number, "yes", truth, "pope") for number, truth in asked])
    half = score([answer(number, "no" if number % 4 else "yes", truth, "pope") for number, truth in asked])
    assert interval(all_yes["vqa/yes_recall"]) == (1, 1) and interval(all_yes["vqa/yes_share"]) == (1, 1)
    low, high = interval(all_yes["vqa/yes_precision"])
    assert low < 0.5 < high and high - low == pytest.approx(4 * 1.96 / 2 / 200**0.5 / 2, rel=0.15)
    assert half["vqa/yes_recall"].value() == 0
    assert paired_interval(half["vqa/yes_recall"], all_yes["vqa/yes_recall"]) == (1, 1)


def test_what_has_no_answers_has_no_figures():
    assert score([answer(1, "dog", ()), caption(1, "a dog", ())]) == {}
    assert "vqa/accuracy" not in score([answer(1, "dog", ()), caption(1, "a dog")])


def test_nocaps_has_a_figure_for_each_domain():
    rows = [caption(number, "a dog runs", domain=f"{kind}-domain") for number, kind in enumerate(["in", "near", "out"])]
    assert {"caption/cider_in", "caption/cider_near", "caption/cider_out", "caption/cider"} <= score(rows).keys()


def test_submissions_are_sorted_and_official(tmp_path):
    submit([answer(9, "a"), answer(2, "two dogs"), caption(7, "a cat"), caption(3, "a dog")], tmp_path)
    kept = {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    assert kept == {
        "submission_vqa.json": [{"question_id": 2, "answer": "two dogs"}, {"question_id": 9, "answer": "a"}],
        "submission_captions.json": [{"image_id": 3, "caption": "a dog"}, {"image_id": 7, "caption": "a cat"}],
    }
    submit([answer(9, "a")], None)
    with pytest.raises(ValueError, match=r"submission_vqa\.json: question_id 9 stand there twice"):
        submit([answer(9, "a"), answer(9, "b")], tmp_path)


@pytest.mark.parametrize(
    ("more", "written"),
    [
        ({"written_id": "05", "server": "gqa"}, [{"questionId": "05", "prediction": "a cup"}]),
        ({"written_id": "V_5.jpg", "server": "vizwiz"}, [{"image": "V_5.jpg", "answer": "a cup"}]),
        ({"written_id": "22Mex", "server": "aokvqa"}, {"22Mex": {"direct_answer": "a cup", "multiple_choice": ""}}),
        ({"written_id": "05"}, [{"question_id": "05", "answer": "a cup"}]),
        ({}, [{"question_id": 5, "answer": "a cup"}]),
    ],
)
def test_each_server_gets_its_own_names_and_ids(tmp_path, more, written):
    submit([answer(5, "a cup", ()) | more], tmp_path)
    assert json.loads((tmp_path / "submission_vqa.json").read_text()) == written


def test_an_image_that_is_called_by_a_word_stays_one(tmp_path):
    submit([caption(9, "a sign", ()) | {"written_id": "0054c91397f2fe05"}], tmp_path)
    kept = json.loads((tmp_path / "submission_captions.json").read_text())
    assert kept == [{"image_id": "0054c91397f2fe05", "caption": "a sign"}]


def test_empty_predictions_are_named(tmp_path):
    rows = [caption(3, " "), caption(4, "a dog runs"), answer(8, "")]
    with pytest.warns(UserWarning) as told:
        found = score(rows)
    texts = [str(each.message) for each in told]
    assert "1 of 2 captions are empty, of image_id 3" in texts and "1 of 1 answers are empty, of question_id 8" in texts
    assert found["vqa/accuracy"].value() == 0
    (tmp_path / "submission_captions.json").write_text("an earlier test's")
    with pytest.warns(UserWarning, match=r"submission_vqa\.json is not written"):
        submit(rows, tmp_path)
    assert not list(tmp_path.iterdir())
    unscored = [answer(number, "", ()) for number in range(12)]
    with pytest.raises(ValueError, match=r"12 of 12 answers are empty, of question_id 0, 1, .* 9 and others"):
        submit(unscored, tmp_path)
