"""What reaches a terminal: texts of others, such as file names and captions, without control characters in them."""

import re

# Control characters of ASCII and Latin-1 (a terminal's escapes begin with one), marks that turn the direction of
# writing, and halves of surrogate pairs, which cannot be printed; a tab and the end of a line may stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """A text with its control characters written out, such as \\x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
