"""The mini T5: how documents become turns, what its training leaves, and what the shipped one answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5ForConditionalGeneration

import lit_blip2.mini
from lit_blip2.mini.train import language as train_lm
from lit_blip2.mini.train import t5 as train_t5
from lit_blip2.mini.train.documents import ANSWER, ASK, REPEAT, RETELL, TELL
from lit_blip2.mini.train.lm_check import check_items
from lit_blip2.mini.train.t5 import greedy_answers
from lit_blip2.mini.train.turns import MOST_QUESTIONS, Turn, collate, recall, turns
from lit_blip2.mini.vocabulary import opt_tokenizer, t5_tokenizer
from lit_blip2.model.language import LanguageModel

SHIPPED = Path(lit_blip2.mini.__file__).parent / "weights" / "t5"


def test_tokenizer_closes_a_text_and_puts_nothing_in_front():
    tokenizer = t5_tokenizer()
    ids = tokenizer("Question: what color is the circle? Answer:").input_ids
    words = ["Question:", "what", "color", "is", "the", "circle", "?", "Answer:", "</s>"]
    assert tokenizer.convert_ids_to_tokens(ids) == words
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.get_vocab() == opt_tokenizer().get_vocab()


@pytest.mark.parametrize("opening, told", [("a red ring </s>", "a red ring </s>"), ("</s> a red ring", "a red ring")])
def test_each_question_is_a_turn_that_is_told_the_description(opening, told):
    asked = [("Question: x Answer:", ASK), ("red </s>", ANSWER)] * 3
    given = turns([(opening, TELL), *asked], np.random.default_rng(0))
    by_hand = Turn(f"{told} Question: x Answer: </s>".split(), ["red", "</s>"], ANSWER)
    assert given == [by_hand] * MOST_QUESTIONS


def test_guesswork_is_told_the_question_alone():
    (turn,) = turns([("</s>", 0.0), ("Question: x Answer:", ASK), ("red </s>", ANSWER)], np.random.default_rng(0))
    assert turn == Turn(["Question:", "x", "Answer:", "</s>"], ["red", "</s>"], ANSWER)


def test_a_document_without_questions_is_cut_before_its_middle():
    """Of four words and the end mark none, one or two are told: with none, the description alone, as in captioning."""
    document, seen = [("a red ring </s>", TELL), ("w x y z </s>", RETELL)], set()
    for seed in range(40):
        (turn,) = turns(document, np.random.default_rng(seed))
        seen.add((" ".join(turn.told), " ".join(turn.said)))
        assert turn.weight == RETELL
    assert {told for told, said in seen if said == "w x y z </s>"} == {"a red ring </s>"}
    assert {told for told, said in seen if said == "y z </s>"} == {"a red ring </s> w x </s>", "a red ring w x </s>"}
    assert {said for _, said in seen} == {"w x y z </s>", "x y z </s>", "y z </s>"}


@pytest.mark.parametrize("text", ["</s> a red ring </s>", "</s> a red ring", "a red ring </s>"])
def test_a_lone_description_is_cut_too(text):
    """The last two are what is left of an examination without questions."""
    for seed in range(10):
        (turn,) = turns([(text, TELL)], np.random.default_rng(seed))
        assert turn.told[-1] == "</s>" and [*turn.told[:-1], *turn.said] == ["a", "red", "ring", "</s>"]


def test_random_words_are_copied_or_looked_up():
    document, sides = [("x y z", 0.0), ("x y z </s>", REPEAT)], set()
    for seed in range(20):
        (turn,) = turns(document, np.random.default_rng(seed))
        sides.add(turn.by_encoder)
        assert turn.weight == REPEAT
        if not turn.by_encoder:
            assert [*turn.told[:-1], *turn.said] == ["x", "y", "z", "x", "y", "z", "</s>"]
    assert sides == {True, False}


def test_the_encoder_says_what_followed_each_word():
    found = {" ".join(recall(["x", "y", "z"], 0.5, np.random.default_rng(seed)).told) for seed in range(20)}
    assert found == {"x y z </s> x y </s>", "x y z </s> y x </s>"}
    for seed in range(5):
        turn = recall(["x", "y", "z"], 0.5, np.random.default_rng(seed))
        assert turn.said[:4] == [""] * 4 and turn.said[-1] == "" and turn.by_encoder
        assert list(zip(turn.told[4:6], turn.said[4:6])) in ([("x", "y"), ("y", "z")], [("y", "z"), ("x", "y")])


def test_collate_by_hand():
    """The decoder starts from the pad token and is told what it should have said."""
    ids = {"<pad>": 0, "</s>": 1, "a": 2, "b": 3}
    several = [Turn(["a", "b", "</s>"], ["b", "a", "</s>"], 0.5), Turn(["b", "</s>"], ["a", "</s>"], 1.0)]
    inputs, targets, weights = collate(several, ids, 0)
    assert inputs["input_ids"].tolist() == [[2, 3, 1], [3, 1, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert inputs["decoder_input_ids"].tolist() == [[0, 3, 2], [0, 2, 1]]
    assert targets.tolist() == [[3, 2, 1], [2, 1, 0]]
    assert weights.tolist() == [[0.5, 0.5, 0.5], [1.0, 1.0, 0.0]]


def test_what_the_encoder_says_is_weighed_in_its_place():
    ids = {"<pad>": 0, "</s>": 1, "a": 2, "b": 3}
    inputs, targets, weights = collate([recall(["a", "b"], 0.5, np.random.default_rng(0))], ids, 0)
    assert inputs.keys() == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].tolist() == [[2, 3, 1, 2, 1]]
    assert targets.tolist() == [[0, 0, 0, 3, 0]] and weights.tolist() == [[0.0, 0.0, 0.0, 0.5, 0.0]]


def test_a_batch_is_said_by_one_side_and_every_turn_is_in_one():
    tokenizer, rng = t5_tokenizer(), np.random.default_rng(0)
    documents = [[("a red ring", 0.0), ("a red ring </s>", REPEAT)]] * 100
    found = train_t5.batches(documents, tokenizer, rng)
    assert sum(len(batch.target_BT) for batch in found) == 100
    assert {"decoder_input_ids" in batch.inputs for batch in found} == {True, False}
    model = train_t5.fresh_t5(tokenizer)
    for inputs, targets, _ in found:
        assert train_t5.logits(model, inputs).shape == (*targets.shape, len(tokenizer))


def test_heads_begin_by_looking_at_neighbours():
    """Encoder heads 0 to 3 at -1, +1, -2, +2 words; decoder heads 0 and 1 at -1, -2; the others nowhere special."""
    model = train_t5.fresh_t5(t5_tokenizer())
    for stack, offsets in ((model.encoder, (-1, 1, -2, 2)), (model.decoder, (-1, -2))):
        bias_HSS = stack.block[0].layer[0].SelfAttention.compute_bias(8, 8)[0]
        for head, bias_SS in enumerate(bias_HSS):
            row = bias_SS[4]
            if head < len(offsets):
                assert row.argmax() == 4 + offsets[head] and row.max() > 5
            else:
                assert row.abs().max() < 1


def test_a_batch_weighs_as_its_turns():
    torch.manual_seed(0)
    tokenizer = t5_tokenizer()
    model, ids = train_t5.fresh_t5(tokenizer), tokenizer.get_vocab()
    several = [Turn(["a", "red", "ring", "</s>"], ["red", "</s>"], 0.5), Turn(["</s>"], ["a", "ring", "</s>"], 1.0)]

    def loss(some: list[Turn]) -> float:
        inputs, targets, weights = collate(some, ids, 0)
        return train_lm.weighted_loss(model(**inputs).logits, targets, weights).item()

    assert loss(several) == pytest.approx(sum(loss([turn]) for turn in several), rel=1e-4)


@pytest.mark.run
def test_training_is_seeded_and_leaves_a_folder_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(train_lm, "BATCH", 4)
    monkeypatch.setattr(train_lm, "CHECK_PAIRS", 20)
    figures = [train_t5.train_t5(tmp_path / name, seed=1, steps=3) for name in ("one", "two")]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    for each in figures:
        each.pop("seconds")
    assert figures[0] == figures[1] and figures[0]["steps"] == 3
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "one")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(tokenizer) == model.config.vocab_size and model.config.decoder_start_token_id == tokenizer.pad_token_id
    assert tokenizer("red").input_ids == t5_tokenizer()("red").input_ids


@pytest.fixture(scope="module")
def shipped():
    return T5ForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).eval()


def test_the_shipped_one_answers_from_descriptions(shipped):
    items = check_items(seed=11, pairs=12)
    prompts = [f"{description} Question: {question} Answer:" for description, question, _, _ in items]
    right = [g == answer for g, (_, _, answer, _) in zip(greedy_answers(shipped, t5_tokenizer(), prompts), items)]
    assert len(items) > 100 and sum(right) / len(right) >= 0.85


def test_the_shipped_one_reads_a_soft_prompt_as_it_reads_words(shipped):
    """Stage 2's interface: embeddings of a description in the soft prompt's place, the question as text."""
    language = LanguageModel(str(SHIPPED), dtype="float32")
    language.load()
    assert AutoTokenizer.from_pretrained(SHIPPED).get_vocab() == t5_tokenizer().get_vocab()
    words = language.tokenizer(
        "a small red circle at top left and a large blue ring at right", add_special_tokens=False, return_tensors="pt"
    )
    prefix_1PD = language.model.get_input_embeddings()(words.input_ids)
    questions = ["what color is the ring ?", "what shape is the red object ?", "where is the red circle ?"]
    prompts = [f"Question: {question} Answer:" for question in questions]
    given = language.generate(prefix_1PD.expand(3, -1, -1), prompts, max_new_tokens=4, num_beams=1)
    assert given == ["blue", "circle", "top left"]
    retold = language.generate(prefix_1PD, [""], max_new_tokens=45, num_beams=1)[0]
    assert "large blue ring" in retold


def test_the_shipped_figures_are_enough():
    figures = json.loads((SHIPPED / "figures.json").read_text())
    assert figures["description_question"]["mean"] >= 0.9
