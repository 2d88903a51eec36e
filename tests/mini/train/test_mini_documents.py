import numpy as np

from lit_blip2.mini.grammar import caption_text, draw_caption
from lit_blip2.mini.pairs import Described, described_pair
from lit_blip2.mini.train.documents import (
    ANSWER,
    END,
    REPEAT,
    comprehension,
    cut,
    draw_documents,
    existence_drill,
    guesswork,
    half_existence,
    half_relation,
    relation_drill,
    repetition,
    retelling,
)
from lit_blip2.mini.train.language import curriculum
from lit_blip2.mini.truth import is_true
from lit_blip2.mini.world import STREAMS, Object, Scene, bucket

RED, CIRCLE, TOP_LEFT = 0, 0, 0
VOCABULARY = [chr(ord("a") + i) for i in range(24)]


def told(index: int = 0):
    return described_pair(0, "text", index, 1)[0][0]


def answers(pieces) -> list[str]:
    return [text for text, weight in pieces if weight == ANSWER]


def test_comprehension_opens_in_both_orders_and_ends():
    openings = set()
    for seed in range(40):
        pieces = comprehension(told(), np.random.default_rng(seed))
        text = caption_text(told().captions[0])
        assert pieces[0][0] in (f"{text} {END}", f"{END} {text}")
        assert answers(pieces) and all(a.endswith(f" {END}") for a in answers(pieces))
        assert all(p[0].startswith("Question: ") and p[0].endswith(" Answer:") for p in pieces[1::2])
        openings.add(pieces[0][0].startswith(END))
    assert openings == {True, False}


def test_guesswork_describes_nothing():
    pieces = guesswork(told(), np.random.default_rng(0))
    assert pieces[0][0] == END and len(pieces) == 3


def test_retelling_gives_away_places_first():
    for k in range(20):
        first, second = retelling(told(k), np.random.default_rng(k))
        assert first[0].count(" at ") == len(told(k).scene.objects)
        assert second[0] == f"{caption_text(told(k).captions[0])} {END}"


def test_repetition_says_the_words_twice():
    (first, free), (again, weight) = repetition(VOCABULARY, np.random.default_rng(0))
    assert (free, weight) == (0.0, REPEAT)
    assert again == f"{first} {END}"


def test_documents_are_reproducible_and_the_share_counts():
    assert draw_documents(0, 5, VOCABULARY, 0.5, 0.5, 0.5) == draw_documents(0, 5, VOCABULARY, 0.5, 0.5, 0.5)
    everything = [d for k in range(50) for d in draw_documents(0, k, VOCABULARY, 1.0, 0.5, 0.5)]
    assert all(set(text.split()) <= {*VOCABULARY, END} for d in everything for text, _ in d)
    nothing = [d for k in range(50) for d in draw_documents(0, k, VOCABULARY, 0.0, 0.5, 0.5)]
    assert all(d[-1][0].endswith(END) for d in nothing)
    assert not any(weight == REPEAT for d in nothing for _, weight in d)


def test_half_questions_by_hand():
    scene = Scene((Object(CIRCLE, RED, 0, TOP_LEFT, 0, 0),), 0)
    lone = Described(scene, (draw_caption(scene, np.random.default_rng(0), "full"),))
    halves = {}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        for q in (half_existence(lone, rng), *half_relation(lone, rng)):
            halves[q.text] = q.answer
    assert halves["is there a circle ?"] == halves["is there a red object ?"] == "yes"
    assert halves["is there an orange object ?"] == halves["is there a square ?"] == "no"
    sides = {side: halves[f"is the red circle at the {side} ?"] for side in ("left", "top", "right", "bottom")}
    assert sides == {"left": "yes", "top": "yes", "right": "no", "bottom": "no"}


def test_cut_keeps_to_the_objects_and_the_split():
    for k in range(60):
        whole = told(k)
        part = cut(whole, np.random.default_rng(k), 2)
        assert set(part.scene.objects) <= set(whole.scene.objects)
        assert bucket(part.scene) in STREAMS["text"][1]
        assert is_true(part.captions[0], whole.scene)
        assert part == whole or len(part.scene.objects) <= 2


def test_drills_ask_hard_questions_of_few_objects():
    for k in range(40):
        rng = np.random.default_rng(k)
        for drill, starts in ((existence_drill, ("is there",)), (relation_drill, ("is the", "where is"))):
            pieces = drill(told(k), rng, small=True)
            questions = [text.removeprefix("Question: ") for text, weight in pieces[1:] if weight != ANSWER]
            assert all(q.startswith(starts) for q in questions)
    pieces = relation_drill(told(), np.random.default_rng(0), small=False)
    assert pieces[0][0].count(" at ") == len(told().scene.objects)


def test_curriculum_drills_small_scenes_in_the_middle():
    assert curriculum(0.0) == (0.5, 0.0, 0.0)
    repeated, drilled, small = curriculum(0.5)
    assert repeated == 0.05 and drilled > 0.5 and small == 1.0
    assert curriculum(0.9)[1] < drilled and curriculum(0.9)[2] < 0.5
