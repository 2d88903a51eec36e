"""The words and tables of a report, as Markdown: one function for each section."""

import json
import shlex
from typing import Any

from lit_blip2.ablation.report.costs import cell_cost, total_cost, wall
from lit_blip2.ablation.report.curves import CAPTION_LOSS, Change
from lit_blip2.ablation.report.differences import config_differences
from lit_blip2.ablation.report.markdown import NONE, code, fence, number, plain, seconds, table
from lit_blip2.ablation.report.records import DONE, FAILED, NOT_PLANNED, PRUNED, WAITING, Sweep
from lit_blip2.ablation.report.results import Result, Row
from lit_blip2.ablation.report.statistics import (
    BETTER,
    LEVEL,
    NO_SPREAD,
    TOO_FEW,
    WORSE,
    Comparison,
    t_quantile,
)
from lit_blip2.ablation.spec.values import smaller_is_better

PERCENT = f"{100 * LEVEL:g} %"
SHOWN_VALUE = 120  # characters of a config's value


def opening(sweep: Sweep, folder: str) -> str:
    """The commands that make it again, the question, what was expected, how far it has come."""
    about, states = sweep.about, {state: sweep.count(state) for state in (DONE, FAILED, PRUNED, WAITING)}
    made_by = f"Sweep: {code(about['command'])}; this page: " if about.get("command") else "This page: "
    lines = [made_by + code(f"python -m lit_blip2 report {shlex.quote(folder)}"), f"# {plain(sweep.name)}"]
    if about.get("question"):
        lines.append(plain(about["question"]))
    if about.get("expect"):
        lines.append(f"**Expected beforehand:** {plain(about['expect'])}")
    if states[WAITING]:
        lines.append(
            f"> **This sweep is still running** (or was stopped): {states[WAITING]} of {len(sweep.cells)} cells have "
            "not ended. Figures are of what has."
        )
    if not sweep.cells:
        lines.append("> **This sweep is still running** (or was stopped): no cell has ended yet.")
    counts = [f"{states[DONE]} done", f"{states[FAILED]} failed"]
    counts += [f"{states[PRUNED]} pruned"] if sweep.search or states[PRUNED] else []
    counts += [] if sweep.search else [f"{states[WAITING]} running or waiting"]
    lines.append(f"**Status:** {', '.join(counts)}, of {len(sweep.cells)} {'trials' if sweep.search else 'cells'}.")
    if sweep.axes:
        axes = [f"{code(axis)} ({', '.join(plain(value) for value in values)})" for axis, values in sweep.axes.items()]
        seeds = ", ".join(str(seed) for seed in about.get("seeds") or []) or "none"
        control = code(sweep.control) if sweep.control else "none"
        lines.append(f"**Axes:** {', '.join(axes)}. **Seeds:** {seeds}. **Control:** {control}.")
    if sweep.search:
        ranges = [f"{code(name)} ({_range(each)})" for name, each in sweep.search.ranges.items()]
        lines.append(f"**Ranges:** {', '.join(ranges)}.")
    return "\n\n".join(lines + [plain(note) for note in sweep.notes])


def _range(bounds: Any) -> str:
    if not isinstance(bounds, dict) or not {"low", "high"} <= bounds.keys():
        return plain(json.dumps(bounds))
    return f"{plain(bounds['low'])} to {plain(bounds['high'])}" + (", in logarithms" if bounds.get("log") else "")


def overview(results: list[Result]) -> str:
    """Means of all metrics beside each other."""
    if not results or not results[0].rows:
        return ""
    head = ["setting", *(code(result.metric) for result in results)]
    rows = []
    for across in zip(*(result.rows for result in results), strict=True):
        rows.append([_name(across[0]), *(_mean_and_verdict(row) for row in across)])
    about = (
        "Mean over seeds. Better and worse are against the control, as each metric's table below shows; the rest is "
    )
    return f"## Overview\n\n{table(head, rows, range(1, len(head)))}\n\n{about}not shown to differ, or not known."


def metric_section(result: Result, plot: str = "") -> str:
    """One metric: its table, how its intervals were made, its plot."""
    head = ["setting", "mean", "sd", "n", "pairs", "difference", f"{PERCENT} interval", "could have shown", "verdict"]
    rows = [_row(row) for row in result.rows]
    parts = [f"### {code(result.metric)}", table(head, rows, range(1, 8)), _how(result)]
    if result.asked:
        asked = [
            [f"{code(each.first)} against {code(each.second)}", *_compared(each.comparison)] for each in result.asked
        ]
        parts += [table(["pairs asked for", *head[4:]], asked, range(1, 5)), _how_asked(len(result.asked))]
    return "\n\n".join([*parts, plot] if plot else parts)


def _how_asked(m: int) -> str:
    together = f", family-wise over these {m}" if m > 1 else ""
    return f"The first is better or worse than the second. Paired by seed as above{together}."


def _row(row: Row) -> list[str]:
    start = [_name(row), _mean(row), number(row.summary.sd), _n(row)]
    found = row.comparison
    if found is None:
        return [*start, *[NONE] * 4, "control" if row.is_control else NONE]
    return [*start, *_compared(found)]


def _compared(found: Comparison) -> list[str]:
    """Pairs, difference, interval, what could have been shown, verdict."""
    shown = [str(found.n), number(found.difference, sign=True), _interval(found), number(found.detectable)]
    return [*shown, found.verdict]


def _interval(found: Comparison) -> str:
    if found.half_width is None:
        return NONE
    low, high = found.difference - found.half_width, found.difference + found.half_width
    return f"{number(low, sign=True)} to {number(high, sign=True)}"


def _name(row: Row) -> str:
    return code(row.setting) + (" (control)" if row.is_control else "")


def _mean(row: Row) -> str:
    return _reasons(row) if row.summary.mean is None else number(row.summary.mean)


def _mean_and_verdict(row: Row) -> str:
    verdict = row.comparison.verdict if row.comparison else ""
    few = f", n = {row.summary.n}" if 0 < row.summary.n < row.seeds else ""
    return _mean(row) + few + (f", {verdict}" if verdict in (BETTER, WORSE) else "")


def _n(row: Row) -> str:
    if not row.planned:
        return NONE
    return str(row.seeds) if row.summary.n == row.seeds else f"{row.summary.n} of {row.seeds} ({_reasons(row)})"


def _reasons(row: Row) -> str:
    if len(row.without) == 1 and not row.values:
        return next(iter(row.without))
    return ", ".join(f"{count} {reason}" for reason, count in row.without.items())


def _how(result: Result) -> str:
    better = "Smaller" if smaller_is_better(result.metric) else "Larger"
    control = next((row for row in result.rows if row.is_control), None)
    if control is None:
        return f"{better} is better. The sweep has no control: nothing is compared."
    if not control.planned:
        return f"{better} is better. The control cannot have this metric ({NOT_PLANNED}): nothing is compared."
    m = result.comparisons
    if not m:
        return f"{better} is better. There is no other setting to compare with the control."
    quantiles = [f"t = {number(t_quantile(n, m))} for {n} pairs" for n in result.pairs] or ["no interval yet"]
    correction = f"Bonferroni, m = {m}, each at {100 * (1 - (1 - LEVEL) / m):.4g} %" if m > 1 else "m = 1"
    text = (
        f"{better} is better. Differences are paired by seed; intervals are Student's t over seeds at a family-wise "
        f"{PERCENT} over the comparison{'s' if m > 1 else ''} of this table ({correction}): "
        f"{', '.join(quantiles)}. "
        '"Could have shown" is the smallest true difference that so many seeds of this spread show four times in five.'
    )
    without = [row.comparison for row in result.rows if row.comparison and row.comparison.half_width is None]
    if any(found.n < 2 for found in without):
        text += f' "{TOO_FEW.capitalize()}": fewer than two pairs, no interval.'
    if any(found.n > 1 for found in without):
        text += " A difference that is the same in every seed has no interval, for it says nothing of the noise: "
        text += f'"{NO_SPREAD}", or none shown if it is zero.'
    return text


FORGETTING = (
    "## Forgetting\n\nDoes accuracy fall while the caption loss still improves? Each line is one setting, its "
    "validations in their order, with one standard deviation over seeds. "
)
CHANGES = (
    "The tables hold the last validation against the one at half of the steps, paired by seed, with family-wise "
    f"{PERCENT} intervals over the table."
)
NO_CHANGES = "Nothing was validated three times: there is no table of what the second half of training changed."


def changes_table(found: list[Change], kind: str, metric: str) -> str:
    """What the second half of training did to loss and metric; empty where nothing was validated often enough."""
    if not found:
        return ""
    head = ["setting", "steps", "seeds", f"{CAPTION_LOSS}, change", f"{PERCENT} interval"]
    head += [f"{metric}, change", f"{PERCENT} interval", "worse while the loss falls"]
    rows = []
    for each in found:
        sides = [[number(side.difference, sign=True), _interval(side)] for side in (each.loss, each.metric)]
        said = "shown" if each.forgets else "not shown"
        rows.append([code(each.name), f"{each.middle} to {each.last}", str(each.metric.n), *sides[0], *sides[1], said])
    return f"{code(kind)}:\n\n{table(head, rows, range(1, 7))}"


def curves_said(seeds: list[int]) -> str:
    """What the curves of a step are, given how many seeds each is of; none if nothing was validated twice."""
    if not seeds:
        return "Validated once only: there is no curve."
    n = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    return f"Validation figures: means over n = {n} seeds, with a band of one standard deviation where n > 1."


def cost_section(sweep: Sweep) -> str:
    """Seconds, steps and memory of each cell; what sharing saved."""
    head = ["cell", "state", "alone", "of it shared", "training steps", "peak process memory, GiB"]
    rows = []
    for cell in sweep.cells:
        cost = cell_cost(sweep, cell)
        part = f" ({cost.ended} of {cost.planned} steps)" if 0 < cost.ended < cost.planned else ""
        steps = f"{cost.steps:,}" if cost.steps is not None else NONE
        alone = seconds(cost.seconds) + part
        memory = number(cost.peak_memory_gib)
        rows.append([code(cell.name), cell.state, alone, seconds(cost.shared_seconds), steps, memory])
    total = total_cost(sweep)
    if not any(step.done for step in sweep.steps.values()):
        return "## Cost\n\nNo step has ended yet."
    share = f" ({100 * total.not_spent / total.without_sharing:.0f} %)" if total.without_sharing else ""
    text = (
        f"**Spent:** {seconds(total.spent)}, each step counted once. **Without sharing:** "
        f"{seconds(total.without_sharing)}. **Time not spent:** {seconds(total.not_spent)}{share}. "
        'A step that several cells use is charged in full to each of them under "alone". Seconds are those of the '
        "steps' processes, which ran beside each other."
    )
    if total.repeated:
        text += (
            f" Steps started more than once: {total.repeated}; what a killed worker had spent on them is not counted."
        )
    return f"## Cost\n\n{text}\n\n{table(head, rows, range(2, 6))}"


def failures_section(sweep: Sweep) -> str:
    """Step, message and log of each failed cell; empty if none failed."""
    parts = []
    for cell in sweep.cells:
        if cell.state != FAILED:
            continue
        parts.append(f"### {code(cell.name)}")
        failure = cell.failure
        if failure is None:
            parts.append("No error was recorded.")
            continue
        where = f"Step {code(failure.step)}: " if failure.step else ""
        parts.append(where + plain(failure.message or "no message"))
        parts += [fence(failure.log_tail)] if failure.log_tail else []
    return "\n\n".join(["## Failed cells", *parts]) if parts else ""


def differences_section(sweep: Sweep) -> str:
    """What each setting changes in the resolved configs; empty without a control."""
    others = [name for name in sweep.settings() if name != sweep.control]
    if not others or sweep.control not in sweep.settings():
        return ""
    parts = [
        "## What each setting changes",
        f"Keys of the resolved configs that differ from the control's ({code(sweep.control)}) at the same seed, "
        "without `trainer.logger` and the folders of the sweep's own runs.",
    ]
    for name in others:
        rows = [
            [plain(d.step), code(d.key), _value(d.control), _value(d.setting), ", ".join(map(str, d.seeds))]
            for d in config_differences(sweep, name)
        ]
        head = ["step", "key", "control", "setting", "seeds"]
        parts += [f"### {code(name)}", table(head, rows) if rows else "No key differs."]
    return "\n\n".join(parts)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return code(text if len(text) <= SHOWN_VALUE else text[: SHOWN_VALUE - 3] + "...")


def search_section(sweep: Sweep, plots: str) -> str:
    """Trials, best first; what was pruned or failed comes after."""
    search = sweep.search
    sign = -1 if search.direction == "maximize" else 1

    def place(cell) -> tuple:
        value = cell.metrics.get(search.objective)
        order = (DONE, PRUNED, FAILED, WAITING).index(cell.state)
        return order, value is None, sign * value if value is not None else 0

    head = ["rank", "trial", "state", code(search.objective), *(code(name) for name in search.ranges), "seed", "time"]
    rows, rank = [], 0
    for cell in sorted(sweep.cells, key=place):
        value = cell.metrics.get(search.objective)
        ranked = cell.state == DONE and value is not None
        rank += ranked
        shown = number(value) if value is not None else cell.without(search.objective)
        labels = [plain(cell.labels.get(name, NONE)) for name in search.ranges]
        rows.append(
            [
                str(rank) if ranked else NONE,
                code(cell.name),
                cell.state,
                shown,
                *labels,
                _seed(cell.seed),
                seconds(wall(cell)),
            ]
        )
    word = "largest" if sign < 0 else "smallest"
    text = (
        f"Ranked by {code(search.objective)}, {word} first. A pruned trial's value is its last before it was stopped. "
        f"The trials took {seconds(sum(wall(cell) or 0.0 for cell in sweep.cells))}, beside each other."
    )
    return "\n\n".join(part for part in ["## Trials", text, table(head, rows, (0, 3, len(head) - 1)), plots] if part)


def _seed(seed: int | None) -> str:
    return NONE if seed is None else str(seed)


def provenance(sweep: Sweep) -> str:
    """Commit, versions, machine."""
    about = sweep.about
    commit = code(about["commit"]) if about.get("commit") else "not known"
    dirty = {True: ", with uncommitted changes", False: ""}.get(about.get("dirty"), "")
    rows = [["commit", commit + dirty], ["machine", plain(about.get("machine") or "not known")]]
    rows.append(["workers", plain(about.get("workers") or "not known")])
    rows += [[plain(name), plain(version)] for name, version in (about.get("versions") or {}).items()]
    return f"## Where it ran\n\n{table(['what', 'value'], rows)}"
