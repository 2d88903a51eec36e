"""`compare`: the difference between the test metrics of two runs, with a paired confidence interval."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from lit_blip2.arguments import Arguments, refused
from lit_blip2.console import Console
from lit_blip2.evaluation.evaluated import METRICS, TESTED_STEP, read_metrics, step_in
from lit_blip2.evaluation.items import FILE, Items, paired_interval, read_items
from lit_blip2.evaluation.rules import SCORING, differing, of_metric, read_random, read_rules, told
from lit_blip2.links import check_links
from lit_blip2.runs import Standing, run_of, standing
from lit_blip2.terminal import say

HELP = """Compare the test metrics of two runs on the same questions, captions and images.

  python -m lit_blip2 compare runs/mini_opt runs/mini_opt_without_stage1

For each metric it prints both values, their difference and its 95 % interval, by a paired bootstrap over images. The
interval does not cover the variation between seeds: use sweep for that."""


def main(arguments: list[str]) -> int:
    """Parse, compare, print. Returns the exit status: 0; 2 after an error, whose reason is printed."""
    parser = Arguments("compare", HELP)
    parser.add_argument(
        "first",
        metavar="RUN_A",
        type=Path,
        help="folder of the first run, or a folder that holds runs; the newest test in it is used",
    )
    parser.add_argument("second", metavar="RUN_B", type=Path, help="folder of the second run, in the same way")
    given = parser.parse_args(arguments)
    try:
        first, second = find_items(given.first), find_items(given.second)
        other = differing(read_rules(first.parent), read_rules(second.parent))
        check_scoring(other)
        rows = compared(read_items(first), read_items(second))
        steps = [tested_step(items) for items in (first, second)]
        stand = [standing(run_of(items)) for items in (first, second)]
        random = [read_random(items.parent) for items in (first, second)]
    except (OSError, ValueError) as error:
        return refused(error)
    table = Table(title=f"A: {first.parent}\nB: {second.parent}", title_justify="left")
    for head in ("metric", "A", "B", "B - A", "95 % interval", "verdict"):
        table.add_column(head, justify="left" if head in ("metric", "verdict") else "right")
    for name, row in rows.items():
        low, high = row["low"], row["high"]
        verdict = "no difference shown" if low <= 0 <= high else "B is higher" if low > 0 else "B is lower"
        metrics = [f"{row[key]:.4f}" for key in ("first", "second")]
        table.add_row(name, *metrics, f"{row['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}", verdict)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if shown := {name: each for metric in rows for name, each in of_metric(other, metric).items()}:
        say(f"A and B were made by other rules: {told(shown)}")
    if steps[0] != steps[1] and None not in steps:
        say(f"A was tested at step {steps[0]}, B at step {steps[1]}")
    for name, step, left in zip("AB", steps, stand):
        if step is None and steps != [None, None]:
            say(f"{name}'s test is an older one, which does not tell the step that it is of")
        elif step is not None and left is not None and (early := told_early(step, left)):
            say(f"{name} was tested at step {step}{early}")
    for name, parts in zip("AB", random):
        if parts:
            say(f"{name} is of RANDOM weights, for trials: {', '.join(parts)}")
    return 0


def find_items(run: Path) -> Path:
    """The file of per-example results of the newest test in a folder. Raises FileNotFoundError, with the way to get
    one, and DataError if a link leads out of the run."""
    found = sorted(run.glob(f"**/{FILE}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise FileNotFoundError(
            f"no {FILE} in {run}: a test writes it (python -m lit_blip2 test --config FILE --ckpt_path {run})"
        )
    check_links(found[-1].parent)
    return found[-1]


def tested_step(items: Path) -> int | None:
    """The step of the checkpoint that was tested; None for an older test, which does not say. Raises DataError for a
    metrics file that cannot be read."""
    file = items.with_name(METRICS)
    return step_in(read_metrics(file), TESTED_STEP) if file.is_file() else None


def told_early(tested: int, left: Standing) -> str:
    """A remark behind the step of a test: its run has trained further since, or has not made all its steps."""
    if tested < left.step:
        return f", and its run stands at step {left.step} now: test it again"
    return f" of the {left.planned} that its run was to make" if tested < (left.planned or 0) else ""


def check_scoring(other: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises ValueError if two tests scored captions or answers by different rules."""
    if scored := {name: other[name] for name in SCORING if name in other}:
        raise ValueError(f"the two were scored by other rules, {told(scored)}: test one of them again")


def compared(first: dict[str, Items], second: dict[str, Items]) -> dict[str, dict[str, float]]:
    """Metric -> first, second, difference, and low and high of its paired interval. Raises ValueError if the tests
    have no metric in common, or used different examples."""
    if not (common := [name for name in first if name in second]):
        raise ValueError(f"no metric is in both: {', '.join(first)} and {', '.join(second)}")
    rows = {}
    for name in common:
        try:
            low, high = paired_interval(first[name], second[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        one, two = first[name].value(), second[name].value()
        rows[name] = {"first": one, "second": two, "difference": two - one, "low": low, "high": high}
    return rows
