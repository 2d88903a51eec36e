"""From a grid to what must be run: every setting's steps are resolved and checked before the first cell starts."""

import fnmatch
import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import Any

from lit_blip2.ablation.run.sharing import Chain, plan_of
from lit_blip2.ablation.run.validated import check_expected
from lit_blip2.ablation.schema import Plan
from lit_blip2.ablation.spec.grid import Grid, run_name


def make_plan(
    grid: Grid, files: bool = True, missing: list[str] | None = None, known: Collection[str] | None = None
) -> Plan:
    """Resolve every cell's steps, check them, and find what they share. missing: if `files` is false, receives the
    files that the steps would miss. known: see `plan_of`.

    Raises ValueError with every step that the models or the parser refuse, every metric that no cell can write, and
    every expectation of a step that is not validated.
    """
    settings = {run_name(point.labels, 0): point.labels for point in grid.points()}
    answers = resolved(grid, settings, files)
    if missing is not None:
        lacking = [(line, step) for (_, step), answer in answers.items() for line in answer["missing"]]
        for line in dict.fromkeys(line for line, _ in lacking):
            steps = dict.fromkeys(step for each, step in lacking if each == line)
            missing.append(f"{', '.join(steps)}: {line}")
    chains = {name: {step: answers[name, step] for step in grid.steps} for name in settings}
    providers = {name: providers_of(grid, chain) for name, chain in chains.items()}
    if lost := [metric for metric in grid.metrics if not any(each[metric] for each in providers.values())]:
        known = sorted({name for chain in chains.values() for answer in chain.values() for name in answer["metrics"]})
        raise ValueError(f"metrics that no cell can write: {', '.join(lost)}. Its steps write {', '.join(known)}")
    check_providers(grid, providers)
    check_expected(grid, chains, providers)
    points = [(point, run_name(point.labels, 0)) for point in grid.points()]
    return plan_of(grid, [Chain(point, chains[name], providers[name]) for point, name in points], known)


def resolved(
    grid: Grid, settings: dict[str, dict[str, str]], files: bool = True
) -> dict[tuple[str, str], dict[str, Any]]:
    """(setting, step) -> the answer of lit_blip2.resolve; equal requests are asked once."""
    wanted = {(name, step): (grid.steps[step].command, *grid.arguments(labels, step))
              for name, labels in settings.items() for step in grid.steps}  # fmt: skip
    requests = list(dict.fromkeys(wanted.values()))
    answers = dict(
        zip(requests, ask([{"command": each[0], "arguments": each[1:], "files": files} for each in requests]))
    )
    faults = {request: answer["error"] for request, answer in answers.items() if "error" in answer}
    if faults:
        raise ValueError("cells that cannot be run:\n" + "\n".join(_told(wanted, faults)))
    return {place: answers[request] for place, request in wanted.items()}


def _told(wanted: dict[tuple[str, str], tuple[str, ...]], faults: dict[tuple[str, ...], str]) -> Iterator[str]:
    """Each fault once, at the first setting and step that has it, with the command that shows it."""
    for fault in dict.fromkeys(faults.values()):
        (setting, step), *more = [place for place, request in wanted.items() if faults.get(request) == fault]
        others = f" (and {len(more)} more such steps)" if more else ""
        yield f"  - {setting.removesuffix(',seed=0')}, step {step}{others}: {fault}"
        yield f"      {' '.join(wanted[setting, step])}"


def check_providers(grid: Grid, providers: dict[str, dict[str, str | None]]) -> None:
    """Raises ValueError for a metric that a test writes in one setting, and only a fit's validation in another."""
    for metric in grid.metrics:
        written = [(each[metric], setting) for setting, each in providers.items() if each[metric] is not None]
        found = {grid.steps[step].command: (step, setting) for step, setting in written}
        if len(found) > 1:
            shown = ", ".join(f"{step} in {setting.removesuffix(',seed=0')}" for step, setting in found.values())
            raise ValueError(f"metric {metric} would come from {shown}: one is a test's, the other a validation's")


def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of lit_blip2.resolve, in one process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "lit_blip2.resolve"], input=json.dumps(requests), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"resolving the cells ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def providers_of(grid: Grid, chain: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    """Metric -> the last step that can write it."""
    return {
        metric: next(
            (step for step in reversed(grid.steps) if any(fnmatch.fnmatch(metric, p) for p in chain[step]["metrics"])),
            None,
        )
        for metric in grid.metrics
    }
