"""Where a sweep ran, and the command that makes it again."""

import argparse
import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_blip2.ablation.spec.scale import SCALES
from lit_blip2.sources import PACKAGE

LIBRARIES = ("torch", "torchvision", "lightning", "transformers", "timm", "numpy")  # results depend on them


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a Plan that do not follow from the ablation's file."""
    return {
        "command": command_line(options),
        **commit(options.config),
        "versions": {"python": platform.python_version()} | versions(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}",
        "workers": options.workers,
    }


def command_line(options: argparse.Namespace) -> str:
    """The command that makes the sweep again, without what is particular to one machine. It names a preloaded library
    (LD_PRELOAD, see benchmarks/mkl_on_amd.py), which may add up sums in another order."""
    preloaded = ":".join(Path(each).name for each in os.environ.get("LD_PRELOAD", "").split(":") if each)
    command = ["python", "-m", "lit_blip2", "sweep", *asked(options), "--workers", str(options.workers)]
    return (f"LD_PRELOAD={shlex.quote(preloaded)} " if preloaded else "") + shlex.join(command)


def asked(options: argparse.Namespace) -> list[str]:
    """The options that say which sweep it is: the ablation, the scale, and settings over both."""
    scale = ["--scale", options.scale] if options.scale else []
    return ["--config", options.config, *scale, *(word for each in options.set for word in ("--set", each))]


def commit(ablation: str) -> dict[str, Any]:
    """The commit of the package's repository, and whether the package, the experiments, the scales or the ablation's
    file differ from it now; None outside a repository."""
    git = ["git", "-C", str(PACKAGE.parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return {"commit": None, "dirty": None}
    paths = (PACKAGE, PACKAGE.parent / "experiments", PACKAGE.parent / SCALES, Path(ablation).resolve())
    changes = (subprocess.run([*git, "status", "--porcelain", "--", path], capture_output=True) for path in paths)
    return {"commit": head.stdout.strip(), "dirty": any(each.returncode or each.stdout.strip() for each in changes)}


def versions() -> dict[str, str | None]:
    """Versions of LIBRARIES; None for a library that is not installed."""
    return {each: _version(each) for each in LIBRARIES}


def other_versions(known: Mapping[str, str | None]) -> list[str]:
    """Libraries whose installed version a plan does not give: `torch 1.0, now 2.0`."""
    return [f"{name} {known.get(name)}, now {now}" for name, now in versions().items() if known.get(name) != now]


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
