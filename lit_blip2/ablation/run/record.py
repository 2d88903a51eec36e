"""plan.json: what a sweep runs, and on what, for its report and for those who go on with it."""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import Any

from lit_blip2.ablation.report.records import setting_name
from lit_blip2.ablation.run.fingerprint import PACKAGE
from lit_blip2.ablation.run.plan import Plan
from lit_blip2.ablation.spec.grid import Grid

LIBRARIES = ("torch", "torchvision", "lightning", "transformers", "timm", "numpy")


def describe(grid: Grid, plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """The contents of plan.json."""
    return {
        "name": grid.name,
        "question": grid.question,
        "expect": grid.expect,
        **asked_pairs(grid),
        "command": command_line(options),
        "axes": {axis: list(labels) for axis, labels in grid.axes.items()},
        "seeds": grid.seeds,
        "metrics": grid.metrics,
        "control": grid.control,
        "identity": plan.identity,
        "sources": plan.sources,
        **commit(options.config),
        "versions": {"python": platform.python_version()} | versions(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}",
        "workers": options.workers,
        **({"search": search(grid)} if grid.ranges else {}),
        "cells": [] if grid.ranges else [dataclasses.asdict(cell) for cell in plan.cells],
        "steps": {} if grid.ranges else {name: dataclasses.asdict(run) for name, run in plan.steps.items()},
    }


def asked_pairs(grid: Grid) -> dict[str, Any]:
    """The one thing in a sweep's file that may be changed after it has begun: nothing that runs depends on it."""
    return {"compare": [[setting_name(grid.control | each) for each in pair] for pair in grid.compare]}


def search(grid: Grid) -> dict[str, Any]:
    """What a search looks for, and where."""
    ranges = {name: dataclasses.asdict(each) for name, each in grid.ranges.items()}
    return {"objective": grid.metrics[0], "direction": grid.direction, "ranges": ranges}


def command_line(options: argparse.Namespace) -> str:
    """The command that makes the sweep again, without what is particular to one machine."""
    return shlex.join(
        ["python", "-m", "lit_blip2", "sweep", "--config", options.config, "--workers", str(options.workers)]
    )


def commit(ablation: str) -> dict[str, Any]:
    """The commit of the package's repository, and whether it lacks something of the package, the experiments or the
    ablation's file as they are now; None outside a repository."""
    git = ["git", "-C", str(PACKAGE.parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return {"commit": None, "dirty": None}
    paths = (PACKAGE, PACKAGE.parent / "experiments", Path(ablation).resolve())
    changes = (subprocess.run([*git, "status", "--porcelain", "--", path], capture_output=True) for path in paths)
    return {"commit": head.stdout.strip(), "dirty": any(each.returncode or each.stdout.strip() for each in changes)}


def versions() -> dict[str, str | None]:
    """Of the libraries on which figures depend."""
    return {each: _version(each) for each in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
