"""Many ablations at a glance: README.md of the folder that holds their reports. It has a line for each ablation, then
for each the outcome of what was expected, and the plot that shows most of it."""

import html
import shlex
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from lit_blip2.ablation.folder import Folder, SweepError, read
from lit_blip2.ablation.report.curves import validating_steps
from lit_blip2.ablation.report.expected import CAME_TRUE, NOT_TRUE, OPEN, outcomes
from lit_blip2.ablation.report.markdown import NONE, code, plain, table
from lit_blip2.ablation.report.plots.paper import plot_path
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.sections.expected import RULE, came_of_it, claim, claim_in_short
from lit_blip2.ablation.report.statistics import PERCENT
from lit_blip2.ablation.report.steps import warnings_of
from lit_blip2.ablation.schema import DONE, Decided, Found
from lit_blip2.terminal import printable
from lit_blip2.whole_files import written_whole

HEAD = ["ablation", "question", "what came of it"]
WORDS = {CAME_TRUE: "came true", NOT_TRUE: "did not", OPEN: "open"}  # beginning of a verdict -> in short
TEXT = (
    "Each line is a sweep; its link leads to the report, whose first line says how it was made. What was expected was "
    "written into the ablation's YAML beforehand: in words, and as comparisons where they are listed here. Of each "
    f"ablation's comparisons p is adjusted by Holm's method, and the {PERCENT} intervals of their differences hold "
    f"together (Bonferroni). {RULE}"
)
WIDTH = 680  # of a plot, in pixels


def found(sweep: Sweep, plots: Collection[str] = ()) -> Found:
    """A sweep's report in short. plots: the paths of the existing ones."""
    decided = [
        Decided(
            claim=claim(each),
            short=claim_in_short(each),
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
    return Found(
        **about, expected=decided, cells=sweep.planned, done=done, warnings=warnings, plot=_headline(sweep, plots)
    )


def _headline(sweep: Sweep, plots: Collection[str]) -> str:
    """The path of the plot to show: along the training, if a comparison is at a step of it; else of the first compared
    metric; "" if there is none."""
    plan, steps = sweep.plan, validating_steps(sweep)
    along = [each.metric for each in plan.expected if each.at is not None]
    names = [f"forgetting.{step}.{metric}" for metric in along for step in steps]
    names += [f"metric.{metric}" for metric in [*(each.metric for each in plan.expected), *sweep.metrics]]
    names += [f"search.{name}" for name in plan.search.ranges] if plan.search else []
    return next((path for name in names if (path := plot_path(name)) in plots), "")


def write_summary(folder: str | Path) -> Path:
    """Write the README.md of a folder of sweeps, and return its path. Raises SweepError if there is no sweep, or if an
    outcome.json is missing or damaged."""
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
    sections = [_section(each.name, short) for each, short in shorts.items()]
    with written_whole(folder / "README.md") as part:
        page = "\n\n".join(["# Results", command, table(HEAD, lines), TEXT, *sections])
        part.write_text(page + "\n", encoding="utf-8")
    return folder / "README.md"


def counted(short: Found) -> str:
    """`2 came true, 1 open (n = 8)`."""
    counts = Counter(word for each in short.expected for start, word in WORDS.items() if each.verdict.startswith(start))
    told = ", ".join(f"{counts[word]} {word}" for word in WORDS.values() if counts[word]) or "no comparison"
    part = f", {short.done} of {short.cells} cells done" if short.done < short.cells else ""
    return f"{told} (n = {len(short.seeds)}{part})"


def _line(folder: str, short: Found) -> list[str]:
    came = "<br>".join([*short.warnings, counted(short)])
    return [_link(folder), plain(short.question) or NONE, came]


def _section(folder: str, short: Found) -> str:
    parts = [f"## {_link(folder)}", plain(short.question)]
    parts += [came_of_it(short.expected) or f"{plain(short.expect) or NONE} (no comparison is listed)"]
    if short.plot:
        place, alt = html.escape(f"{folder}/{short.plot}"), html.escape(printable(Path(short.plot).stem))
        parts.append(f'<img src="{place}" width="{WIDTH}" alt="{alt}">')
    return "\n\n".join(part for part in parts if part)


def _link(folder: str) -> str:
    return f"[{plain(folder)}]({folder}/report.md)"
