"""Predictions kept line by line, and an evaluation that goes on from them."""

from types import SimpleNamespace

import pytest

from lit_blip2.lit.evaluators.unfinished import Unfinished, predictions_made_of

ANSWERS = [dict(task="vqa", image_id=1, question_id=number, answer=str(number)) for number in range(4)]
CAPTION = dict(task="caption", image_id=1, caption="a wall")


def test_what_was_made_is_there_for_the_next_process(tmp_path):
    first = Unfinished(tmp_path, "test", 0, ["config", "checkpoint"])
    assert not first.done and first.take([("vqa", 0)]) is None
    first.add(ANSWERS[:2])
    first.add([CAPTION])
    again = Unfinished(tmp_path, "test", 0, ["config", "checkpoint"])
    assert again.take([("vqa", 1), ("vqa", 0)]) == [ANSWERS[1], ANSWERS[0]]
    assert again.take([("caption", 1)]) == [CAPTION]
    assert again.take([("vqa", 1), ("vqa", 2)]) is None  # a batch is made whole


def test_ranks_add_up_and_a_line_that_was_cut_is_made_again(tmp_path):
    for rank in (0, 1):
        Unfinished(tmp_path, "test", rank, ["a"]).add(ANSWERS[2 * rank : 2 * rank + 2])
    (second,) = tmp_path.glob(".test.*.1.jsonl")
    second.write_text(second.read_text()[:-9])
    alone = Unfinished(tmp_path, "test", 0, ["a"])
    assert sorted(alone.done) == [("vqa", 0), ("vqa", 1), ("vqa", 2)]
    alone.add(ANSWERS[3:])
    assert len(Unfinished(tmp_path, "test", 0, ["a"]).done) == 4


def test_another_evaluation_does_not_read_them(tmp_path):
    Unfinished(tmp_path, "test", 0, ["beams: 1"]).add(ANSWERS)
    other = Unfinished(tmp_path, "test", 0, ["beams: 5"])
    assert not other.done and not Unfinished(tmp_path, "predict", 0, ["beams: 1"]).done
    other.add(ANSWERS[:1])
    other.remove()
    assert not list(tmp_path.iterdir())


class Table:
    def __init__(self, content: str):
        self.digest = lambda: content


MADE_OF = dict(precision="32-true", seed=0, asked="a", examples="b", image_size=32)


def made_of(precision: str, seed: int, asked: str, examples: str, image_size: int) -> list[str]:
    tables = {"test": {"vqa": Table(asked), "binding": Table("c")}, "val": {"vqa": Table(examples)}}
    about = dict(root="data", images="images", features=None, image_size=image_size, seed=seed, tables=tables)
    return predictions_made_of("model: {a: 1}", "", precision, SimpleNamespace(**about))


@pytest.mark.parametrize(
    "other", [{"precision": "bf16-mixed"}, {"seed": 1}, {"asked": "d"}, {"examples": "d"}, {"image_size": 64}], ids=str
)
def test_whatever_predictions_depend_on_begins_them_anew(other):
    assert made_of(**MADE_OF) == made_of(**MADE_OF) != made_of(**(MADE_OF | other))
