"""Tables and lines by rich, with texts made printable and shown literally."""

from typing import Any

from rich import console
from rich.text import Text

from lit_blip2.terminal import printable


class Console(console.Console):
    """rich's console. rich itself passes on terminal escapes in a text and reads brackets as markup, so that a foreign
    name could become a link. Here both are off. For a style, give it as an argument, or give a `styled` text."""

    def __init__(self, **how: Any):
        super().__init__(**{"markup": False, "emoji": False} | how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


def styled(text: str, style: str) -> Text:
    """A text, printable, in a colour or another style of rich's."""
    return Text(printable(text), style)
