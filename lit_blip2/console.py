"""Tables and lines by rich, whose texts are made printable."""

from typing import Any

from rich import console
from rich.text import Text

from lit_blip2.terminal import printable


class Console(console.Console):
    """rich's console: it lets a terminal's escapes pass that stand in a text."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)
