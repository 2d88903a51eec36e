"""Main effects and interactions of the axes, below a metric's table."""

from collections.abc import Sequence

from lit_blip2.ablation.report.effects import Effect
from lit_blip2.ablation.report.markdown import code, number, table
from lit_blip2.ablation.report.sections.method import COMPARED, compared, family, speaks_of
from lit_blip2.ablation.report.statistics import BETTER, WORSE

MAIN = ["main effect of", "over", *COMPARED]
INTERACTION = ["effect of", "at", "is", "at", "is", "over", *COMPARED]
SHOWN = "interaction shown"
RIGHT = [place for place, name in enumerate(INTERACTION[:-1]) if name not in ("effect of", "at")]
WORDS = (
    "Axes are crossed: below each metric stand their effects. A main effect is the mean of the settings that have a "
    "label, less that of the same settings with the control's label. An interaction is how much the effect of one "
    'label changes with a label of another axis: the second effect less the first. "Over" is the number of settings '
    "of the other axes that each is a mean of. Main effects are a family, and interactions are another."
)


def effects_tables(main: Sequence[Effect], interactions: Sequence[Effect]) -> str:
    """Both tables; empty if there are no interactions."""
    if not interactions:
        return ""
    first = table(MAIN, map(_main, main), range(1, len(MAIN) - 1))
    second = table(INTERACTION, map(_interaction, interactions), RIGHT)
    return "\n\n".join(["#### Effects", first, _below(main), second, _below(interactions)])


def _below(found: Sequence[Effect]) -> str:
    return f"{family(len(found))} {speaks_of([each.comparison for each in found])}"


def _main(effect: Effect) -> list[str]:
    return [code(effect.label), str(effect.over), *compared(effect.comparison)]


def _interaction(effect: Effect) -> list[str]:
    beside = [text for at, is_ in zip(effect.at, effect.simple) for text in (code(at), number(is_, sign=True))]
    *numbers, verdict = compared(effect.comparison)
    shown = SHOWN if verdict in (BETTER, WORSE) else verdict
    return [code(effect.label), *beside, str(effect.over), *numbers, shown]
