"""Limits the tokens of each of several texts in one row, if the row has too little room for all of them."""

from collections.abc import Sequence

LEAST_ROOM = 16  # room in tokens below which a text is not cut to it


def share(wanted: Sequence[int], room: int) -> int:
    """The most tokens that each text of a row may have, so that together they have no more than `room`.

    Short texts stay whole, the longest are cut to one size:  wanted 10, 500, 90, room 200  ->  100: 10, 100, 90.
    If all texts fit, it is the longest one's size. If there is too little room, it is below LEAST_ROOM, or negative.
    """
    left = room
    for place, size in enumerate(sorted(wanted)):
        each = left // (len(wanted) - place)
        if size > each:
            return each
        left -= size
    return max(wanted)


def limits(most: int, rooms: Sequence[int | None] | int | None, count: int, beside: int = 0) -> list[int]:
    """The most tokens of each of `count` texts: `most`, or less if its room, minus `beside` tokens, is smaller. A room
    of None, or below LEAST_ROOM, sets no limit."""
    rooms = rooms if isinstance(rooms, Sequence) else [rooms] * count
    return [most if each is None or each < LEAST_ROOM else min(most, each - beside) for each in rooms]
