"""Many ablations at a glance: README.md of the folder that holds their reports, a line for each."""

import shlex
from pathlib import Path

from lit_blip2.ablation.folder import Folder, SweepError, read
from lit_blip2.ablation.report.expected import outcomes
from lit_blip2.ablation.report.markdown import NONE, code, number, plain, span, table
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.sections.expected import RULE, claim
from lit_blip2.ablation.report.statistics import PERCENT
from lit_blip2.ablation.report.steps import warnings_of
from lit_blip2.ablation.schema import DONE, Decided, Found
from lit_blip2.whole_files import written_whole

HEAD = ["ablation", "question", "expected beforehand, and what came of it", "seeds"]
TEXT = (
    "Each line is a sweep; its link leads to the report, whose first lines say how it was made. What was expected was "
    "written into the ablation's YAML beforehand: in words, and as comparisons where they are listed here. Of each "
    f"ablation's comparisons p is adjusted by Holm's method, and the {PERCENT} intervals of their differences hold "
    f"together (Bonferroni). {RULE}"
)


def found(sweep: Sweep) -> Found:
    """A sweep's report in short."""
    decided = [
        Decided(
            claim=claim(each),
            metric=each.expected.metric,
            verdict=each.verdict,
            difference=each.comparison.difference,
            interval=each.comparison.interval,
            p=each.comparison.p,
        )
        for each in outcomes(sweep)
    ]
    plan, done = sweep.plan, sweep.count(DONE)
    warnings = [each.short for each in warnings_of(sweep)]
    about = {"name": plan.name, "question": plan.question, "expect": plan.expect, "seeds": plan.seeds}
    return Found(**about, expected=decided, cells=sweep.planned, done=done, warnings=warnings)


def write_summary(folder: str | Path) -> Path:
    """Write the README.md of a folder of sweeps; the file. Raises SweepError where there is none, or where a report in
    short is missing or damaged."""
    folder = Path(folder)
    sweeps = sorted(file.parent for file in folder.glob("*/report.md"))
    if not sweeps:
        raise SweepError(
            f"no folder in {str(folder)!r} holds a report.md: give the folder that holds the sweeps' folders"
        )
    shorts = {each: read(Folder(each).outcome, Found) for each in sweeps}
    if missing := [str(each) for each, short in shorts.items() if short is None]:
        again = f"python -m lit_blip2 report {shlex.quote(missing[0])}"
        raise SweepError(f"no {Folder('').outcome} in {', '.join(missing)}: write the report again ({again})")
    command = f"Made by {code(f'python -m lit_blip2 report --summary {shlex.quote(str(folder))}')}."
    lines = [_line(each.name, short) for each, short in shorts.items()]
    with written_whole(folder / "README.md") as part:
        part.write_text("\n\n".join(["# Results", command, table(HEAD, lines), TEXT]) + "\n", encoding="utf-8")
    return folder / "README.md"


def _line(folder: str, short: Found) -> list[str]:
    seeds = f"{len(short.seeds)}" + (f" ({short.done} of {short.cells} cells done)" if short.done < short.cells else "")
    decided = [*map(_decided, short.expected)] or [f"{plain(short.expect) or NONE} (no comparison is listed)"]
    came = "<br>".join([*short.warnings, *decided])
    return [f"[{plain(folder)}]({folder}/report.md)", plain(short.question) or NONE, came, seeds]


def _decided(each: Decided) -> str:
    return f"{each.claim}: **{each.verdict}**" + (
        f" (p {number(each.p)}, {span(each.interval)})" if each.interval else ""
    )
