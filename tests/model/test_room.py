"""Texts that share a row are cut to its room: the longest alike, short ones not at all."""

import pytest

from lit_blip2.model.room import limits, share


@pytest.mark.parametrize(
    ("wanted", "room", "wished"),
    [
        ([10, 500, 90], 200, 100),
        ([500, 500], 200, 100),
        ([5, 7], 12, 7),
        ([5, 7], 400, 7),
        ([40], 30, 30),
        ([9, 9, 9], 10, 3),
        ([9, 9], -4, -2),
    ],
)
def test_the_longest_texts_of_a_row_are_cut_alike(wanted, room, wished):
    each = share(wanted, room)
    assert each == wished and (each < 0 or sum(min(size, each) for size in wanted) <= room)


def test_too_little_room_is_no_limit():
    assert limits(50, None, 2) == [50, 50] and limits(50, 30, 2, beside=1) == [29, 29]
    assert limits(50, [15, 16, 900], 3, beside=2) == [50, 14, 50]
