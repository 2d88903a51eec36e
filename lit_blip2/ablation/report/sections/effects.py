"""Main effects and interactions of the axes, below a metric's table."""

from collections.abc import Sequence

from lit_blip2.ablation.report.effects import Effect
from lit_blip2.ablation.report.markdown import NONE, code, number, table
from lit_blip2.ablation.report.sections.method import COMPARED, compared, family, speaks_of
from lit_blip2.ablation.report.statistics import BETTER, WORSE

HEAD = ["effect of", "at the other axis's control", "at its label", "over", *COMPARED]
SHOWN = "interaction shown"
WORDS = (
    "Of one label: the mean of the settings that have it, less that of the same settings with the control's label. Of "
    "two: how much the effect of the first changes with the second; the two columns beside it are that effect without "
    'and with the second. "Over" is the number of settings of the other axes that each is a mean of.'
)


def effects_table(found: Sequence[Effect]) -> str:
    """Empty where there are none."""
    if not found:
        return ""
    below = f"{WORDS} {family(len(found))} {speaks_of([each.comparison for each in found])}"
    return f"#### Main effects and interactions\n\n{table(HEAD, map(_line, found), range(1, len(HEAD) - 1))}\n\n{below}"


def _line(effect: Effect) -> list[str]:
    name = " with ".join(code(f"{axis}={label}") for axis, label in effect.labels.items())
    simple = [number(each, sign=True) for each in effect.simple] or [NONE, NONE]
    *numbers, verdict = compared(effect.comparison)
    shown = SHOWN if effect.simple and verdict in (BETTER, WORSE) else verdict
    return [name, *simple, str(effect.over), *numbers, shown]
