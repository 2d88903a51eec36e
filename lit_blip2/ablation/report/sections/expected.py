"""What was expected beforehand, and what came of it: the report's first lines."""

from lit_blip2.ablation.report.expected import Outcome, outcomes
from lit_blip2.ablation.report.markdown import code, number, plain, span, table
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.sections.method import family, speaks_of
from lit_blip2.ablation.report.statistics import LEVEL, PERCENT
from lit_blip2.ablation.schema import setting_name

HEAD = ["expected", "difference", f"{PERCENT} interval", "p (Holm)", "outcome"]

RULE = (
    f"Came true: p is below {1 - LEVEL:.2g} in the direction that was expected, and the interval does not exclude the "
    "size that matters. Did not: the interval excludes a difference of that size. Open: neither, or a cell has no "
    "value."
)


def expected_section(sweep: Sweep) -> str:
    """Empty where nothing was expected."""
    said = [f"**Expected beforehand:** {plain(sweep.plan.expect)}"] if sweep.plan.expect else []
    if found := outcomes(sweep):
        said.append(table(HEAD, map(_line, found), (1, 2, 3)))
        said.append(f"{RULE} {family(len(found))} {speaks_of([each.comparison for each in found])}")
    return "\n\n".join(said)


def claim(outcome: Outcome) -> str:
    """What was expected, in words."""
    each = outcome.expected
    at = f" at step {each.at}" if each.at is not None else ""
    better, than = (code(setting_name(labels)) for labels in (each.better, each.than))
    return f"{code(each.metric)}{at} is better with {better} than with {than} (size that matters: {each.by:g})"


def _line(outcome: Outcome) -> list[str]:
    found = outcome.comparison
    return [claim(outcome), number(found.difference, sign=True), span(found.interval), number(found.p), outcome.verdict]
