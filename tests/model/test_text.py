"""Packed texts: hand-worked layouts."""

import pytest
import torch

from lit_blip2.model.text import PackedText


def test_layout():
    text = PackedText.from_lists([[7, 8], [9], [4, 5, 6]])
    assert text.ids_L.tolist() == [7, 8, 9, 4, 5, 6]
    assert text.row_L.tolist() == [0, 0, 1, 2, 2, 2]
    assert text.position_L.tolist() == [0, 1, 0, 0, 1, 2]
    assert text.starts_B.tolist() == [0, 2, 3] and text.max_length == 3 and len(text) == 3
    assert text.padded(fill=1).tolist() == [[7, 8, 1], [9, 1, 1], [4, 5, 6]]
    assert text.padded(4).tolist() == [[7, 8, 0, 0], [9, 0, 0, 0], [4, 5, 6, 0]]
    assert text.slot_L.tolist() == [0, 1, 3, 6, 7, 8]


def test_next_tokens_never_cross_texts():
    places, targets = PackedText.from_lists([[7, 8], [9], [4, 5, 6]]).next_tokens()
    assert places.tolist() == [0, 3, 4] and targets.tolist() == [8, 5, 6]


def test_select_with_repetition():
    text = PackedText.from_lists([[7, 8], [9], [4, 5, 6]]).select(torch.tensor([2, 2, 1]))
    assert text.padded().tolist() == [[4, 5, 6], [4, 5, 6], [9, 0, 0]]
    assert text.row_L.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_dense_text_keeps_its_padding():
    text = PackedText.from_padded(torch.tensor([[7, 8, 0], [9, 0, 0]]), torch.tensor([2, 1]))
    assert text.padded(fill=5).tolist() == [[7, 8, 5], [9, 5, 5]]
    assert text.starts_B.tolist() == [0, 3]
    with pytest.raises(ValueError, match="packed on the host"):
        text.next_tokens()


def test_first_token_replaced():
    text = PackedText.from_lists([[7, 8], [9]]).with_first_token(3)
    assert text.ids_L.tolist() == [3, 8, 3]


@pytest.mark.parametrize("ids", [[], [[1], []]])
def test_nothing_to_pack_is_refused(ids):
    with pytest.raises(ValueError, match="at least one token"):
        PackedText.from_lists(ids)
