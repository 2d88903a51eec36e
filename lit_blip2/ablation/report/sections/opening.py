"""What a sweep asks and how far it has come; at the page's end, where it ran."""

import shlex
from collections import Counter
from pathlib import Path

from lit_blip2.ablation.report.markdown import code, plain, table
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.remade import NOTICE, ablation_of
from lit_blip2.ablation.report.sections.expected import expected_section
from lit_blip2.ablation.schema import DONE, FAILED, PRUNED, WAITING, Plan
from lit_blip2.ablation.spec.grid import Range
from lit_blip2.evaluation.evaluated import VALIDATED_STEP, step_in

NOT_ENDED = "> **This sweep is still running** (or was stopped): "


def opening(sweep: Sweep, folder: str) -> str:
    """The commands that make it again, the question, what was expected and came of it, how far the sweep has come."""
    plan = sweep.plan
    made_by = f"Sweep: {code(plan.command)}; this page: " if plan.command else "This page: "
    lines = [made_by + code(f"python -m lit_blip2 report {shlex.quote(folder)}"), f"# {plain(plan.name)}"]
    lines += [NOTICE.format(file=code(ablation_of(Path(folder))))] if sweep.remade else []
    lines += [plain(plan.question)] if plan.question else []
    lines += [expected_section(sweep)]
    lines += [f"**Left out:** {plain('; '.join(plan.left_out))}."] if plan.left_out else []
    lines += _status(sweep) + _axes(sweep)
    if plan.search:
        ranges = [f"{code(name)} ({_range(each)})" for name, each in plan.search.ranges.items()]
        lines.append(f"**Ranges:** {', '.join(ranges)}.")
    lines += [plain(f"cells/{name}.json belongs to no cell of the plan: left out.") for name in sweep.strangers]
    return "\n\n".join(line for line in lines if line)


def _status(sweep: Sweep) -> list[str]:
    """How many cells have ended, and how; first a warning where some have not."""
    states = {state: sweep.count(state) for state in (DONE, FAILED, PRUNED, WAITING)}
    lines, is_search = [], sweep.plan.search is not None
    if states[WAITING]:
        ended = f"{states[WAITING]} of {len(sweep.cells)} cells have not ended. The tables hold what has."
        lines.append(NOT_ENDED + ended)
    if is_search and len(sweep.cells) < (sweep.plan.search.trials or 0):
        lines.append(f"{NOT_ENDED}{len(sweep.cells)} of its {sweep.plan.search.trials} trials have ended.")
    elif not sweep.cells:
        lines.append(NOT_ENDED + "no cell has ended yet.")
    if short := _short(sweep):
        lines.append(
            f"> **Fewer steps than planned:** {', '.join(short)}. A limit such as max_time, early stopping or a "
            "callback has ended these trainings."
        )
    if earlier := _earlier(sweep):
        lines.append(
            f"> **Metrics of an earlier step than the last:** {', '.join(earlier)}. These trainings ended after "
            "their last validation, as val_check_interval does not divide their steps."
        )
    if len(commits := _commits(sweep)) > 1:
        cells = ", ".join(f"{name} ({count} cells)" for name, count in commits.items())
        lines.append(f"**Cells of several commits:** {cells}. What their steps use is the same in all (plan.json).")
    counts = [f"{states[DONE]} done", f"{states[FAILED]} failed"]
    counts += [f"{states[PRUNED]} pruned"] if is_search or states[PRUNED] else []
    counts += [] if is_search else [f"{states[WAITING]} running or waiting"]
    lines.append(f"**Status:** {', '.join(counts)}, of {len(sweep.cells)} {'trials' if is_search else 'cells'}.")
    return lines


def _commits(sweep: Sweep) -> Counter[str]:
    """The commits that cells were run at, as far as their records tell -> how many."""
    told = [each for each in sweep.records.values() if each.commit]
    return Counter(code(each.commit) + (", with uncommitted changes" if each.dirty else "") for each in told)


def _short(sweep: Sweep) -> list[str]:
    """Runs that made fewer steps than their plan says."""
    planned = {name: run.max_steps for name, run in sweep.plan.steps.items()}
    made = {name: done.steps for name, done in sweep.done.items() if done.steps is not None and planned.get(name)}
    return [f"{code(name)} ({steps:,} of {planned[name]:,})" for name, steps in made.items() if steps < planned[name]]


def _earlier(sweep: Sweep) -> list[str]:
    """Runs that a metric is compared of, and that were last validated before their last step."""
    compared = {name for cell in sweep.cells for name in cell.metrics.values()}
    found = {name: step_in(each.root, VALIDATED_STEP) for name, each in sweep.ended_with.items() if name in compared}
    made = {name: sweep.done[name].steps for name in found}
    return [
        f"{code(name)} (step {step:,} of {made[name]:,})"
        for name, step in found.items()
        if None not in (step, made[name]) and step < made[name]
    ]


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
