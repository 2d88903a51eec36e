"""What a sweep asks, and the outcome; below the overview, what was run; at the page's end, where it ran."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lit_blip2.ablation.report.markdown import code, plain, table
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.remade import NOTICE, ablation_of
from lit_blip2.ablation.report.sections.expected import came_of_it
from lit_blip2.ablation.report.steps import warnings_of
from lit_blip2.ablation.schema import DONE, FAILED, PRUNED, WAITING, Decided, Plan
from lit_blip2.ablation.spec.grid import Range

NOT_ENDED = "> **This sweep is still running** (or was stopped): "


def opening(sweep: Sweep, folder: str, found: Sequence[Decided]) -> str:
    """The commands that make sweep and page again, the question, warnings, and the outcome of what was expected. found:
    the outcome of each comparison."""
    plan = sweep.plan
    made_by = f"Sweep: {code(plan.command)}; this page: " if plan.command else "This page: "
    lines = [made_by + code(f"python -m lit_blip2 report {shlex.quote(folder)}"), f"# {plain(plan.name)}"]
    lines += [plain(plan.question)] if plan.question else []
    return "\n\n".join([*lines, *_warnings(sweep), *([came_of_it(found)] if found else [])])


def what_was_run(sweep: Sweep, folder: str) -> str:
    """Cells, axes and seeds; what is left out."""
    plan = sweep.plan
    lines = ["## What was run", _status(sweep)]
    lines += _axes(sweep)
    if plan.search:
        ranges = [f"{code(name)} ({_range(each)})" for name, each in plan.search.ranges.items()]
        lines.append(f"**Ranges:** {', '.join(ranges)}.")
    lines += [f"**Left out:** {plain('; '.join(plan.left_out))}."] if plan.left_out else []
    if len(commits := _commits(sweep)) > 1:
        cells = ", ".join(f"{name} ({count} cells)" for name, count in commits.items())
        lines.append(f"**Cells of several commits:** {cells}. What their steps use is the same in all (plan.json).")
    lines += [NOTICE.format(file=code(ablation_of(Path(folder))))] if sweep.remade else []
    of = "is no trial's" if plan.search else "belongs to no cell of the plan"
    lines += [plain(f"cells/{name}.json {of}: left out.") for name in sweep.strangers]
    return "\n\n".join(lines)


def _warnings(sweep: Sweep) -> list[str]:
    """Warnings that some cells have not ended, and those about runs' steps."""
    lines, is_search = [], sweep.plan.search is not None
    if waiting := sweep.count(WAITING):
        lines.append(f"{NOT_ENDED}{waiting} of {len(sweep.cells)} cells have not ended. The tables hold what has.")
    if is_search and len(sweep.cells) < sweep.planned:
        lines.append(f"{NOT_ENDED}{len(sweep.cells)} of its {sweep.planned} trials have ended.")
    elif not sweep.cells:
        lines.append(NOT_ENDED + "no cell has ended yet.")
    return lines + [f"> **{each.what}:** {', '.join(each.runs)}. {each.why}" for each in warnings_of(sweep)]


def _status(sweep: Sweep) -> str:
    """How many cells have ended, and how."""
    is_search, pruned = sweep.plan.search is not None, sweep.count(PRUNED)
    counts = [f"{sweep.count(DONE)} done", f"{sweep.count(FAILED)} failed"]
    counts += [f"{pruned} pruned"] if is_search or pruned else []
    counts += [] if is_search else [f"{sweep.count(WAITING)} running or waiting"]
    return f"**Status:** {', '.join(counts)}, of {sweep.planned} {'trials' if is_search else 'cells'}."


def _commits(sweep: Sweep) -> Counter[str]:
    """Commit -> number of cells that were run at it, as far as their records tell."""
    told = [each for each in sweep.records.values() if each.commit]
    return Counter(code(each.commit) + (", with uncommitted changes" if each.dirty else "") for each in told)


def _axes(sweep: Sweep) -> list[str]:
    if not sweep.plan.axes:
        return []
    axes = [f"{code(axis)} ({', '.join(map(plain, labels))})" for axis, labels in sweep.plan.axes.items()]
    seeds = ", ".join(map(str, sweep.plan.seeds)) or "none"
    control = code(sweep.control) if sweep.control else "none"
    return [f"**Axes:** {', '.join(axes)}. **Seeds:** {seeds}. **Control:** {control}."]


def _range(given: Range) -> str:
    return f"{plain(given.low)} to {plain(given.high)}" + (", in logarithms" if given.log else "")


def where_it_ran(plan: Plan) -> str:
    """Commit, machine, versions."""
    commit = code(plan.commit) if plan.commit else "not known"
    lines = [["commit", commit + (", with uncommitted changes" if plan.dirty else "")]]
    lines.append(["machine", plain(plan.machine or "not known")])
    lines.append(["workers", plain(plan.workers or "not known")])
    lines += [[plain(name), plain(version)] for name, version in plan.versions.items()]
    return f"## Where it ran\n\n{table(['what', 'value'], lines)}"
