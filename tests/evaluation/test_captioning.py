"""Caption metrics: by hand, and against pycocoevalcap's own totals."""

import shutil

import numpy as np
import pytest

from lit_blip2.evaluation import java
from lit_blip2.evaluation.captioning import caption_items
from lit_blip2.evaluation.formulas import meteor
from lit_blip2.evaluation.items import Items, interval

TEXTS = ["a small red circle", "two blue squares and a star", "a green star at the left"]
GIVEN = ["a cat sat on a mat", "the dogs are running, in a park", "two men's bikes", "a man rides a big horse"]
WANTED = [
    ["A cat sits on the mat.", "the cat is sitting there"],
    ["a dog runs in the park!", "some dogs run (quickly)", "a park"],
    ["Two bikes -- of men's size", "2 bicycles"],
    ["a man rides a big horse", "someone is riding"],
]
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no java")


def scores(predictions, references, **options) -> dict[str, float]:
    """What a run logs."""
    found = caption_items(predictions, references, range(len(predictions)), **options)
    return {name: items.value() for name, items in found.items()}


def as_dicts(given, wanted):
    return {i: list(texts) for i, texts in enumerate(wanted)}, {i: [text] for i, text in enumerate(given)}


def test_perfect_captions_score_the_maximum():
    found = scores([text.upper() for text in TEXTS], [[text, "something else entirely"] for text in TEXTS])
    assert found["caption/bleu4"] == pytest.approx(1, abs=1e-6)
    assert found["caption/rouge_l"] == pytest.approx(1)
    assert scores(TEXTS, [[text] for text in TEXTS])["caption/cider"] == pytest.approx(10)


def test_bleu_by_hand():
    # 5 words: precisions 4/5, 3/4, 2/3, 1/2, same length as the reference
    found = scores(["a b c d x"], [["a b c d e"]])
    assert found["caption/bleu4"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, abs=1e-6)


def test_rouge_by_hand():
    # the longest common subsequence is "a b d": precision 3/4 and recall 3/5, recall weighing 1.2 squared
    found = scores(["a b x d"], [["a b c d e"]])
    assert found["caption/rouge_l"] == pytest.approx((1 + 1.44) * 0.75 * 0.6 / (0.6 + 1.44 * 0.75))


def test_shuffled_captions_score_less():
    right, wrong = (scores(given, [[text] for text in TEXTS]) for given in (TEXTS, TEXTS[::-1]))
    assert all(wrong[name] < right[name] for name in right)


def test_sums_over_images_are_pycocoevalcaps_totals():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = np.random.default_rng(0)
    words = ["a", "red", "blue", "dog", "cat", "runs", "sits", "on", "the", "grass"]
    given = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(40)]
    wanted = [[" ".join(rng.choice(words, rng.integers(4, 12))) for _ in range(5)] for _ in given]
    found, texts = scores(given, wanted), as_dicts(given, wanted)
    assert found["caption/bleu4"] == pytest.approx(Bleu(4).compute_score(*texts, verbose=0)[0][3], rel=1e-12)
    assert found["caption/cider"] == pytest.approx(Cider().compute_score(*texts)[0], rel=1e-12)
    assert found["caption/rouge_l"] == pytest.approx(Rouge().compute_score(*texts)[0], rel=1e-12)


def test_bleus_interval_is_that_of_whole_sets_drawn_anew():
    """Against scoring each drawn set of captions from the start."""
    from pycocoevalcap.bleu.bleu import Bleu

    given = [f"a b c d {'x y z' if number % 3 else 'e f g'}" for number in range(30)]
    wanted = [["a b c d e f g"]] * 30
    low, high = interval(caption_items(given, wanted, range(30))["caption/bleu4"])
    rng, drawn = np.random.default_rng(1), []
    for _ in range(300):
        rows = rng.integers(30, size=30)
        texts = as_dicts([given[row] for row in rows], [wanted[row] for row in rows])
        drawn.append(Bleu(4).compute_score(*texts, verbose=0)[0][3])
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.04)


def test_a_domain_is_a_set_of_its_own():
    domains = ["in-domain", "out-domain", "in-domain", "out-domain"]
    found = scores(GIVEN, WANTED, domains=domains)
    alone = scores(GIVEN[::2], WANTED[::2])
    assert found["caption/cider_in"] == pytest.approx(alone["caption/cider"])
    assert found["caption/cider_out"] == pytest.approx(scores(GIVEN[1::2], WANTED[1::2])["caption/cider"])
    assert "caption/cider_near" not in found
    assert found["caption/cider"] != pytest.approx((found["caption/cider_in"] + found["caption/cider_out"]) / 2)


def test_an_empty_caption_scores_nothing():
    found = scores(["", " \n"], [["a dog", "a cat runs"]] * 2)
    assert found == pytest.approx(dict.fromkeys(found, 0), abs=1e-9)


def test_caption_errors():
    with pytest.raises(ValueError, match="1 captions for 0"):
        scores(["a"], [])
    with pytest.raises(ValueError, match="image 0 of 1"):
        scores(["a"], [[]])
    with pytest.raises(ValueError, match="'stanford' is none of spaces, ptb"):
        scores(["a"], [["a"]], tokenizer="stanford")


@pytest.mark.run
@needs_java
def test_words_are_those_of_pycocoevalcaps_tokenizer():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [*GIVEN, *(text for texts in WANTED for text in texts), "two cafés at 5:30 p.m.", 'isn\'t "it" ... so?']
    theirs = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    assert java.ptb_words(texts) == [theirs[i][0] for i in range(len(texts))]
    assert java.ptb_words(["", "A dog,\n runs.", "!", ""]) == ["", "a dog runs", "", ""]


@needs_java
@pytest.mark.slow
def test_meteor_is_pycocoevalcaps():
    from pycocoevalcap.meteor.meteor import Meteor

    given, wanted = [*GIVEN, "", "a ||| b"], [*WANTED, ["a dog"], ["a ||| b", "c"]]
    items = caption_items(given, wanted, range(6), meteor=True)["caption/meteor"]
    texts = [[text.lower() for text in given[:4]], [[text.lower() for text in each] for each in WANTED]]
    scorer = Meteor()
    total, each = scorer.compute_score(*as_dicts(*texts))
    del scorer  # ends its process
    first = Items(items.values[:4], np.arange(4), np.arange(4), figure="meteor")
    assert first.value() == pytest.approx(total, rel=1e-9)
    assert meteor(items.values[:4]) == pytest.approx(each, rel=1e-9)
    assert each[3] == 1 and meteor(items.values[4]) == 0 and meteor(items.values[5]) == 1


def test_without_java_or_models_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="no java on PATH: install one"):
        java.check_java()
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(java, "_folder", lambda part: tmp_path / part)
    with pytest.raises(FileNotFoundError, match=r"spice needs stanford-corenlp-3.6.0.jar and .*spice/lib: unpack"):
        java.check_java(spice=True)
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    for name in java.SPICE_MODELS:
        (tmp_path / "spice" / "lib" / name).touch()
    told = type("Told", (), {"stderr": 'openjdk version "17.0.15" 2025-04-15'})
    monkeypatch.setattr(java.subprocess, "run", lambda *_, **__: told)
    with pytest.raises(ValueError, match="runs on Java 8 or 11, the java on PATH is 17"):
        java.check_java(spice=True)
    told.stderr = 'java version "1.8.0_401"'
    java.check_java(spice=True)
