"""Names and values in an ablation's files."""

import math
import shlex
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StrictStr


def word(value: Any) -> str:
    """A value as a word. YAML reads a bare on, off, yes, no as a boolean: it becomes on or off again."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _number(given: Any) -> int | float:
    """A finite number. YAML reads 1e-4 as a word, unlike 1.0e-4."""
    with suppress(ValueError):
        given = float(given) if isinstance(given, str) else given
    if type(given) not in (int, float) or not math.isfinite(given):
        raise ValueError(f"must be a finite number, not {given!r}")
    return given


def _command(line: str) -> str:
    try:
        shlex.split(line)
    except ValueError as error:
        raise ValueError(f"{line!r} is no command ({error})") from error
    return line


Word = Annotated[str, BeforeValidator(word)]
Labels = dict[Word, Word]  # axis -> label
Number = Annotated[Any, BeforeValidator(_number)]
Command = Annotated[StrictStr, AfterValidator(_command)]  # what stands behind `python -m lit_blip2`
Settings = dict[StrictStr, Any]  # of several steps: `stage1.model.net.itc: null`


def smaller_is_better(metric: str) -> bool:
    """Whether smaller is better: true for losses and perplexities, false for every other metric."""
    return metric.startswith("loss/") or metric.endswith(("_loss", "perplexity"))


def as_dict(value: Any) -> dict[Any, Any]:
    """The value, or an empty dict in place of another kind of value."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value, or an empty list in place of another kind of value."""
    return value if isinstance(value, list) else []
