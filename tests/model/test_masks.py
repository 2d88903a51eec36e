"""Masks against the drawings in their docstring."""

import pytest
import torch

from lit_blip2.model import masks


def drawn(picture: str) -> torch.Tensor:
    return torch.tensor([[mark == "x" for mark in line.split()] for line in picture.strip().splitlines()])


QUERIES, TEXT = masks.Segment("query", 2), masks.Segment("text", 3, torch.ones(1, 3, dtype=torch.bool))

PICTURES = {
    "UNIMODAL": "x x . . .\n x x . . .\n . . x x x\n . . x x x\n . . x x x",
    "BIDIRECTIONAL": "x x x x x\n x x x x x\n x x x x x\n x x x x x\n x x x x x",
    "MULTIMODAL_CAUSAL": "x x . . .\n x x . . .\n x x x . .\n x x x x .\n x x x x x",
}


@pytest.mark.parametrize("name", PICTURES)
def test_each_rule_is_as_drawn(name):
    mask = masks.attention_mask(getattr(masks, name), [QUERIES, TEXT], [QUERIES, TEXT])
    assert mask.shape == (1, 1, 5, 5)
    assert torch.equal(mask[0, 0], drawn(PICTURES[name]))


def test_the_docstring_shows_the_same_pictures():
    lines = [line.split() for line in masks.__doc__.splitlines() if line.strip()[:2] in ("q ", "t ")]
    for number, name in enumerate(PICTURES):
        shown = [" ".join(line[6 * number + 1 : 6 * number + 6]) for line in lines if len(line) == 18]
        assert torch.equal(drawn("\n".join(shown)), drawn(PICTURES[name])), name


def test_padding_is_a_column_nobody_sees():
    text = masks.Segment("text", 3, torch.tensor([[True, True, False], [True, True, True]]))
    mask = masks.attention_mask(masks.BIDIRECTIONAL, [QUERIES, text], [QUERIES, text])
    assert not mask[0, 0, :, 4].any() and mask[0, 0, :, :4].all() and mask[1].all()


def test_a_row_of_padding_still_sees_something():
    text = masks.Segment("text", 3, torch.tensor([[True, False, False]]))
    for rule in (masks.UNIMODAL, masks.BIDIRECTIONAL, masks.MULTIMODAL_CAUSAL):
        assert masks.attention_mask(rule, [QUERIES, text], [QUERIES, text]).any(-1).all()


def test_no_mask_where_everything_attends():
    assert masks.attention_mask(masks.UNIMODAL, [QUERIES], [QUERIES]) is None


def test_text_rows_alone_look_at_queries_and_earlier_text():
    mask = masks.attention_mask(masks.MULTIMODAL_CAUSAL, [TEXT], [QUERIES, TEXT])
    assert torch.equal(mask[0, 0], drawn("x x x . .\n x x x x .\n x x x x x"))
