"""GitHub's Markdown: text with markup and control characters escaped, three-digit numbers, and tables."""

import re
from collections.abc import Iterable, Sequence

from lit_blip2.terminal import one_line, printable

NONE = "-"


def plain(text: object) -> str:
    """Text on one line, in which no character is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#&~!])", r"\\\1", one_line(printable(text)))


def code(text: object) -> str:
    """A code span, whatever the text holds."""
    text = one_line(printable(text)) or " "
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if len(ticks) > 1 else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fence(lines: Iterable[str]) -> str:
    """A block of code, whatever the lines hold."""
    text = printable("\n".join(lines))
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}text\n{text}\n{ticks}"


def number(value: float | None, sign: bool = False) -> str:
    """Three significant digits, whole numbers above a thousand; a dash for None."""
    if value is None:
        return NONE
    if abs(value) < 1e-12:  # rounding errors of zero
        return "0"
    plus = "+" if sign else ""
    if 1e-3 <= abs(value) < 999.5:
        return f"{value:{plus}#.3g}".rstrip(".")
    return f"{value:{plus},.0f}" if 999.5 <= abs(value) < 1e9 else f"{value:{plus}.2e}"


def span(ends: tuple[float, float] | None) -> str:
    """Both ends with their signs; a dash for None."""
    return " to ".join(number(end, sign=True) for end in ends) if ends else NONE


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table. right: columns that are aligned to the right."""
    ruler = ["---:" if column in right else "---" for column in range(len(head))]
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(head), ruler, *body])


def seconds(value: float | None) -> str:
    """A duration as a person says it: 42 s, 12 min 5 s, 3 h 20 min."""
    if value is None:
        return NONE
    if value < 60:
        return f"{number(value)} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
