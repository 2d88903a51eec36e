"""Tables and lines by rich, whose texts are made printable and mean what they say."""

from typing import Any

from rich import console
from rich.text import Text

from lit_blip2.terminal import printable


class Console(console.Console):
    """rich's console. By itself it lets a terminal's escapes pass that stand in a text, and takes brackets for markup,
    by which a name of somebody's could become a link; who wants a style gives it, or a `styled` text."""

    def __init__(self, **how: Any):
        super().__init__(**{"markup": False, "emoji": False} | how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


def styled(text: str, style: str) -> Text:
    """A text, printable, in a colour or another style of rich's."""
    return Text(printable(text), style)
