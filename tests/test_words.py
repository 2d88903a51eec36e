"""Which words a network's tokenizers do not know, said and refused, for every kind of text."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lit_blip2 import words
from lit_blip2.commands.data import main
from lit_blip2.data.annotations.captions import read_captions
from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.annotations.strings import Strings
from lit_blip2.data.coco import COCO
from lit_blip2.mini.vocabulary import bert_tokenizer, opt_tokenizer
from lit_blip2.model.plain import Plain

BERT = "lit_blip2/mini/weights/bert"


def network(reads_prompts: bool = True) -> SimpleNamespace:
    """A stage 2 whose language model and bridge have the mini-world's words."""
    language = SimpleNamespace(tokenizer=opt_tokenizer(), plain=Plain(opt_tokenizer()))
    bridge = SimpleNamespace(tokenizer=SimpleNamespace(plain=Plain(bert_tokenizer())))
    return SimpleNamespace(language=language, bridge=bridge, reads_prompts=reads_prompts, prompt="a photo of")


def questions(texts: list[str], answers: list[str]) -> Questions:
    ids = np.arange(len(texts))
    return Questions(
        ids, ids, *(Strings(each) for each in (["x.jpg"] * len(texts), texts, ["t"] * len(texts), answers))
    )


def captions(tmp_path, *texts: str):
    file = tmp_path / "mine.csv"
    file.write_text("image,caption\n" + "".join(f"{i}.png,{text}\n" for i, text in enumerate(texts)))
    return read_captions(file)


def test_every_reader_and_kind_of_text_is_looked_at(tmp_path):
    tables = [
        captions(tmp_path, "a red star", "a cup of coffee"),
        questions(["what shape is the mug ?"], ["star", "teapot"]),
    ]
    found = {
        (each.reader, each.kind): each.known
        for each in words.summed(words.look(network(), tables, "Question: {} Answer:"))
    }
    assert found["language model", "captions"] == (7, 2, ("cup", "coffee"))
    assert found["language model", "questions"] == (6, 1, ("mug",))
    assert found["language model", "answers"] == (2, 1, ("teapot",))
    assert found["bridge", "questions"] == (6, 1, ("mug",))
    assert found["bridge", words.TEMPLATE] == (2, 2, ("Question:", "Answer:"))
    assert found["language model", words.TEMPLATE] == (2, 0, ())
    assert ("bridge", "captions") not in found and found["language model", "prompt"].unknown == 0
    assert not [each for each in words.look(network(False), tables) if each.reader == "bridge"]


def test_the_words_around_a_question_do_not_make_up_for_its_own():
    told = words.look(network(), [questions(["who knits jumpers", "why"], ["star"] * 2)], "Question: {} Answer:")
    with pytest.raises(ValueError, match=r"^100\.0% of 4 words of questions .*; data\.max_unknown_words is"):
        words.check_known(told, 0.9)


def test_the_words_around_a_question_are_told_and_never_refused():
    table = questions(["is there a star ?"], ["star"])
    told = words.look(network(), [table], "Riddle: {} Solve:")
    words.check_known(told, 0.0)
    said = "\n".join(map(str, told))
    assert "100.0% of 2 words of the text around each question are unknown to the tokenizer of the bridge" in said
    assert not [each for each in words.look(network(), [captions_only()], "Riddle: {}") if each.kind == words.TEMPLATE]


class Own:
    """A source of a user's own, of two rows: what it draws is all that training asks of it."""

    def __init__(self, *texts: dict[str, str]):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def draw(self, sample: int, rng: np.random.Generator) -> dict[str, str]:
        return self.texts[sample]


class OwnSpans(Own):
    """The same, through spans alone."""

    draw = None

    def span(self, sample: int) -> Own:
        return Own(*self.texts)


def captions_only() -> Own:
    return Own({"caption": "a red star"}, {"caption": "a cup of coffee"})


def test_the_texts_of_a_source_of_ones_own_are_looked_at():
    asked = {"question": "is there a mug ?", "answer": "teapot"}
    for table in (captions_only(), OwnSpans(*captions_only().texts)):
        assert words.texts_of(table) == {"captions": ["a red star", "a cup of coffee"]}
    told = words.look(network(), [Own(asked, asked)])
    with pytest.raises(ValueError, match=r"100\.0% of 2 words of answers .* \(teapot\)"):
        words.check_known(told, 0.5)


def test_a_source_without_texts_is_told():
    with pytest.warns(UserWarning, match=r"^unknown words: not looked at in list, which draws no texts$"):
        assert words.texts_of([1, 2]) == {}


@pytest.mark.parametrize("limit, refused", [(0.5, False), (0.4, True), (0.0, True), (1.0, False)])
def test_half_may_be_unknown_and_no_more_than_the_limit(limit, refused):
    told = words.look(network(), [questions(["is there a star ?"], ["star", "teapot"])])
    check = partial(words.check_known, told, limit)
    if refused:
        with pytest.raises(ValueError, match=r"^50\.0% of 2 words of answers .* \(teapot\); data.max_unknown_words is"):
            check()
    else:
        check()


def test_large_tables_are_sampled(monkeypatch, tmp_path):
    monkeypatch.setattr(words, "MOST", 3)
    table = captions(tmp_path, *(f"caption {i}" for i in range(9)))
    assert words.texts_of(table) == {"captions": ["caption 0", "caption 4", "caption 8"]}


def test_the_limit_is_a_share():
    with pytest.raises(ValueError, match=r"data\.max_unknown_words=50 must be a share, from 0 to 1"):
        COCO(max_unknown_words=50)


@pytest.fixture
def experiment(tmp_path):
    """Two images, one of them with strange words; `data check` on a stage 1 with the mini-world's words."""
    for number in range(2):
        Image.fromarray(np.full((8, 8, 3), 100 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "mine.csv").write_text("image,caption\n0.png,a red star\n1.png,coffee on some tables\n")
    net = {
        "vision": {"name": "vit_tiny_patch16_224"},
        "qformer": {"num_queries": 2, "hidden": 8, "layers": 2, "heads": 2, "intermediate": 8, "vocab_size": 62},
        "itc": {},
        "tokenizer": BERT,
    }
    model = {"class_path": "lit_blip2.lit.LitStage1", "init_args": {"net": net}}
    data = {"root": str(tmp_path), "images": ".", "train": "mine.csv"}
    given = {"model": model, "data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": data}}

    def check(**changed) -> int:
        data.update(changed.pop("data", {}))
        net.update(changed)
        (tmp_path / "experiment.yaml").write_text(json.dumps(given))
        return main(
            ["check", "--config", str(tmp_path / "experiment.yaml"), "--workers=1", f"--out={tmp_path}/faults.csv"]
        )

    return check


def test_data_check_says_and_refuses(experiment, capsys):
    assert experiment() == 1
    said, error = capsys.readouterr()
    assert "57.1% of 7 words of captions are unknown to the tokenizer of the Q-Former (coffee, on, some" in said
    assert "data.max_unknown_words is 0.5" in error and "looked at 2 of 2 images" in said
    assert experiment(data={"max_unknown_words": 0.6}) == 0


def test_data_check_without_a_tokenizer_looks_at_the_rest(experiment, capsys):
    assert experiment(tokenizer="no/folder") == 0
    said = capsys.readouterr().out
    assert "unknown words: not looked at" in said and "no/folder" in said and "looked at 2 of 2 images" in said


def test_few_unknown_captions_do_not_hide_behind_many_known_ones(tmp_path):
    tables = [captions(tmp_path, "a cup of coffee"), *(captions(tmp_path, "a red star") for _ in range(9))]
    told = words.look(network(False), tables)
    (whole,) = [each for each in words.summed(told) if (each.reader, each.kind) == ("language model", "captions")]
    assert whole.known.words == 31 and whole.known.share < 0.1
    with pytest.raises(ValueError, match=r"data\.max_unknown_words is 0\.4"):
        words.check_known(told, 0.4)


def test_a_long_word_is_shown_by_its_beginning():
    told = words.look(network(), [questions(["is there a star ?"], ["z" * 3000])])
    with pytest.raises(ValueError, match=r"\(z{57}\.\.\.\); data"):
        words.check_known(told, 0.5)


def test_special_tokens_in_a_prompt_are_told_in_one_line_for_each_reader():
    end = opt_tokenizer().eos_token
    (told,) = words.letters(network(), [f"user\n{end} Answer:", "a photo of", f"user\n{end} Answer:"])
    assert told == (
        f"the prompt 'user\\n{end} Answer:' names {end}: text is read as text, so these are letters to the language "
        "model, and not its special tokens"
    )
    assert len(words.letters(network(), ["[SEP] Answer:"])) == 1
    assert not words.letters(network(reads_prompts=False), ["[SEP] Answer:"])
