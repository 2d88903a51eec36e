"""What was expected beforehand, and how it turned out: in short for a report's first lines, and in numbers."""

from collections.abc import Sequence

from lit_blip2.ablation.report.expected import Outcome, outcomes
from lit_blip2.ablation.report.markdown import code, number, plain, span, table
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.sections.method import family, speaks_of
from lit_blip2.ablation.report.statistics import LEVEL, PERCENT
from lit_blip2.ablation.schema import Decided, setting_name

HEAD = ["expected", "difference", f"{PERCENT} interval", "p (Holm)", "outcome"]

RULE = (
    f"Came true: p is below {1 - LEVEL:.2g} in the direction that was expected, and the interval does not exclude the "
    "size that matters. Did not: the interval excludes a difference of that size; the opposite is shown where p is "
    "below that in the other direction. Open: neither, or a cell has no value."
)


def expected_section(sweep: Sweep) -> str:
    """The section; empty if nothing was expected."""
    said = [f"**Expected beforehand:** {plain(sweep.plan.expect)}"] if sweep.plan.expect else []
    if found := outcomes(sweep):
        said.append(table(HEAD, map(_line, found), (1, 2, 3)))
        said.append(f"{RULE} {family(len(found))} {speaks_of([each.comparison for each in found])}")
    return "\n\n".join(["## What was expected", *said]) if said else ""


def came_of_it(found: Sequence[Decided]) -> str:
    """A line for each expected comparison."""
    return "\n".join(f"- {in_short(each)}" for each in found)


def in_short(each: Decided) -> str:
    """The claim, its verdict, and the numbers behind it, if there are any."""
    told = f"difference {number(each.difference, sign=True)}, {span(each.interval)}, p {number(each.p)}"
    return f"{each.claim}: **{plain(each.verdict)}**" + (f" ({told})" if each.interval else "")


def claim(outcome: Outcome) -> str:
    """What was expected, in words."""
    each = outcome.expected
    at = f" at step {each.at}" if each.at is not None else ""
    better, than = (code(setting_name(labels)) for labels in (each.better, each.than))
    return f"{code(each.metric)}{at} is better with {better} than with {than} (size that matters: {each.by:g})"


def claim_in_short(outcome: Outcome) -> str:
    """The metric, and the labels in which the two settings differ."""
    each = outcome.expected
    at = f" at step {each.at}" if each.at is not None else ""
    sides = [(each.better, each.than), (each.than, each.better)]
    better, than = (setting_name({axis: one[axis] for axis in one if one[axis] != two.get(axis)}) for one, two in sides)
    return f"{code(better)} over {code(than)} in {code(each.metric)}{at}"


def _line(outcome: Outcome) -> list[str]:
    found = outcome.comparison
    return [claim(outcome), number(found.difference, sign=True), span(found.interval), number(found.p), outcome.verdict]
