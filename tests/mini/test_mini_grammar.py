import numpy as np
import pytest

from lit_blip2.mini.grammar import (
    KINDS,
    QUESTION_TYPES,
    Caption,
    Mention,
    caption_text,
    draw_caption,
    draw_questions,
    words,
)
from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.truth import is_true, match_matrix
from lit_blip2.mini.world import SHAPES, Object, Scene

RED, GREEN, ORANGE = 0, 1, 5
CIRCLE, SQUARE, RING = 0, 1, 5
SMALL, LARGE = 0, 1
TOP_LEFT, CENTER, BOTTOM_RIGHT = 0, 4, 8

SCENE = Scene(
    (
        Object(CIRCLE, RED, SMALL, TOP_LEFT, 0, 0),
        Object(CIRCLE, RED, LARGE, CENTER, 0, 0),
        Object(RING, ORANGE, LARGE, BOTTOM_RIGHT, 0, 0),
    ),
    0,
)


def caption(*mentions, relation=-1) -> Caption:
    return Caption("full", tuple(Mention(*m) for m in mentions), relation)


def test_caption_words():
    full = caption((CIRCLE, RED, SMALL, TOP_LEFT), (RING, ORANGE, -1, -1), (SQUARE, GREEN, LARGE, CENTER))
    assert caption_text(full) == ("a small red circle at top left , an orange ring and a large green square at center")
    related = caption((CIRCLE, RED, -1, -1), (RING, ORANGE, -1, -1), (CIRCLE, RED, -1, -1), relation=0)
    assert caption_text(related) == "a red circle left of an orange ring and a red circle"


@pytest.mark.parametrize(
    ("said", "true"),
    [
        (caption((RING, ORANGE, -1, -1)), True),
        (caption((RING, RED, -1, -1)), False),
        (caption((CIRCLE, RED, -1, -1), (CIRCLE, RED, -1, -1)), True),
        (caption((RING, ORANGE, -1, -1), (RING, ORANGE, -1, -1)), False),  # there is one ring only
        (caption((CIRCLE, RED, SMALL, CENTER)), False),  # the one at the center is large
        (caption((CIRCLE, RED, LARGE, -1), (CIRCLE, RED, -1, TOP_LEFT)), True),
        (caption((CIRCLE, RED, -1, -1), (CIRCLE, RED, LARGE, -1), relation=0), True),  # left of
        (caption((CIRCLE, RED, LARGE, -1), (CIRCLE, RED, -1, -1), relation=0), False),
        (caption((CIRCLE, RED, LARGE, -1), (CIRCLE, RED, -1, -1), relation=1), True),  # right of
        (caption((CIRCLE, RED, -1, -1), (RING, ORANGE, -1, -1), relation=2), True),  # above
        (caption((CIRCLE, RED, -1, -1), (RING, ORANGE, -1, -1), relation=3), False),  # below
        (caption(*[(CIRCLE, RED, -1, -1)] * 4), False),  # more said than there is
    ],
)
def test_truth_by_hand(said, true):
    assert is_true(said, SCENE) is true
    assert match_matrix([said], [SCENE]).tolist() == [[true]]


def test_match_matrix_agrees_with_trying_every_matching():
    pairs = [described_pair(1, "train", k, 2)[0] for k in range(40)]
    scenes = [d.scene for pair in pairs for d in pair]
    # Mentions cut down, so that many captions are true of several scenes.
    vague = [
        Caption("cut", tuple(m._replace(size=-1, cell=-1) for m in c.mentions[:2]), c.relation)
        for pair in pairs
        for d in pair
        for c in d.captions
        if len(c.mentions) > 1
    ]
    vague += [Caption("one", c.mentions[:1], -1) for c in vague]
    expected = np.array([[is_true(c, s) for s in scenes] for c in vague])
    assert (match_matrix(vague, scenes, block=37) == expected).all()
    assert expected.sum() > 2 * len(vague)


def test_drawn_captions_are_true_and_of_every_kind():
    rng = np.random.default_rng(0)
    kinds = set()
    for k in range(100):
        for told in described_pair(2, "train", k)[0]:
            kinds |= {c.kind for c in told.captions}
            assert all(len(caption_text(c).split()) <= 34 for c in told.captions)
            assert is_true(draw_caption(told.scene, rng, "full"), told.scene)
            if len(told.scene.objects) == 1:
                assert {c.kind for c in told.captions} == {"full"}
    assert kinds == set(KINDS)


def test_questions_of_every_type_with_right_answers():
    questions = {}
    for seed in range(60):
        for q in draw_questions(SCENE, np.random.default_rng(seed)):
            questions.setdefault(q.type, {})[q.text] = q.answer
    # Two circles are alike: no two objects can be told apart from each other, so no relation is asked.
    assert set(questions) == set(QUESTION_TYPES) - {"relation"}
    assert questions["colour"] == {"what color is the ring ?": "orange"}  # two circles: not asked
    assert questions["shape"] == {"what shape is the orange object ?": "ring"}
    assert questions["size"] == {"what size is the orange ring ?": "large"}
    assert questions["place"] == {"where is the orange ring ?": "bottom right"}
    assert questions["count"] == {
        "how many objects are there ?": "3",
        "how many circles are there ?": "2",
        "how many rings are there ?": "1",
    }
    assert questions["existence"] == {
        "is there a red circle ?": "yes",
        "is there an orange ring ?": "yes",
        "is there a red ring ?": "no",
        "is there an orange circle ?": "no",
    }


def test_relation_is_asked_of_what_can_be_told_apart():
    first, _, ring = SCENE.objects
    scene = Scene((first, ring), 0)
    found = {
        q.text: q.answer
        for seed in range(80)
        for q in draw_questions(scene, np.random.default_rng(seed))
        if q.type == "relation"
    }
    assert found["is the circle left of the ring ?"] == "yes"
    assert found["is the orange ring above the red circle ?"] == "no"
    assert len(found) == 8  # two relations, two orders, two ways to name


def test_a_caption_is_asked_only_what_it_says():
    rng = np.random.default_rng(0)
    for k in range(150):
        for told in described_pair(4, "text", k, 1)[0]:
            said = told.captions[0]
            types = {q.type for q in draw_questions(told.scene, rng, said)}
            if said.kind == "plain":
                assert not types & {"size", "place", "relation"}
            if said.kind == "no place":
                assert not types & {"place", "relation"}
            if said.kind in ("no size", "relation") and said.mentions[0].size == -1:
                assert "size" not in types


def test_yes_and_no_are_balanced():
    answers = {"existence": [], "relation": []}
    for k in range(400):
        pair, rng = described_pair(5, "train", k, 1)
        for told in pair:
            for q in draw_questions(told.scene, rng):
                if q.type in answers:
                    answers[q.type].append(q.answer == "yes")
    for given in answers.values():
        assert abs(np.mean(given) - 0.5) < 4 * 0.5 / len(given) ** 0.5


def test_words_cover_every_text():
    known = set(words())
    for k in range(200):
        pair, rng = described_pair(6, "train", k)
        for told in pair:
            for c in told.captions:
                assert set(caption_text(c).split()) <= known
            for q in draw_questions(told.scene, rng):
                assert set(q.text.split()) | set(q.answer.split()) <= known
    assert set(SHAPES) <= known
