"""Texts in two arrays."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_blip2.data.annotations.strings import Strings


@given(st.lists(st.text()))
def test_strings_come_back(texts):
    strings = Strings(texts)
    assert list(strings) == texts and len(strings) == len(texts)
    assert list(pickle.loads(pickle.dumps(strings))) == texts
    if texts:
        assert strings[-1] == texts[-1]
    with pytest.raises(IndexError):
        strings[len(texts)]
