"""Which checkpoint of a run's folder is meant, and which run a checkpoint belongs to: everybody asks here.

A run is the folder that holds its config.yaml. Its checkpoints lie in it or up to two folders below, under any name:

    runs/mini_opt/version_0/config.yaml
    runs/mini_opt/version_0/checkpoints/last.ckpt, last-v1.ckpt, epoch=0-step=500.ckpt
"""

import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CONFIG = "config.yaml"
DEPTH = 3  # a checkpoint's folder, the one above it, and the one above that


class Found(NamedTuple):
    """A whole checkpoint. Ordered: matches the run's current config, then step, then time written."""

    is_of_config: bool
    step: int
    written: int
    file: Path


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, or the newest whole one of a run's folder, or of an experiment's newest run.

    Files that are cut short are left out, with a warning that names them. Raises FileNotFoundError that says what was
    looked for, and ValueError for a folder with runs of several experiments.
    """
    path = Path(path)
    if path.is_file():
        return path
    files = sorted(file for file in path.rglob("*.ckpt") if file.is_file() and not file.name.startswith("."))
    if (path / CONFIG).is_file():  # it is a run, and what lies in a run of its own below it is not this one's
        files = [file for file in files if run_of(file) == path]
    runs: dict[Path, list[Path]] = {}
    for file in files:
        runs.setdefault(run_of(file), []).append(file)
    if len(experiments := sorted({str(run.parent) for run in runs})) > 1:
        raise ValueError(
            f"{str(path)!r} holds runs of several experiments ({', '.join(experiments)}): name one of them"
        )
    newest = max(runs.values(), key=lambda files: max(file.stat().st_mtime_ns for file in files), default=[])
    read = {file: _read(file) for file in newest}
    damaged = ", ".join(str(file) for file, contents in read.items() if contents is None)
    found = [_found(file, contents) for file, contents in read.items() if contents is not None]
    if not found:
        cut = f": {damaged} cannot be read, being cut short or no checkpoint" if damaged else ""
        raise FileNotFoundError(
            f"no checkpoint: {str(path)!r} is neither a file nor a folder with a whole checkpoint in it{cut}. Train "
            "the run first, or point to one that is there."
        )
    chosen = max(found).file
    if damaged:
        warnings.warn(f"{damaged} cannot be read, being cut short or no checkpoint: taking {chosen}", stacklevel=2)
    if not max(found).is_of_config and read[chosen].get("config") and (config := run_of(chosen) / CONFIG).is_file():
        warnings.warn(
            f"no checkpoint was written by the run of {config}, which has ended before its first one: taking {chosen}, "
            "of another run in that folder",
            stacklevel=2,
        )
    return chosen


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to: the nearest above it with a config.yaml; without one, the
    folder above `checkpoints`, or its own."""
    above = list(checkpoint.parents)[:DEPTH]
    own = above[1] if above[0].name == "checkpoints" and len(above) > 1 else above[0]
    return next((folder for folder in above if (folder / CONFIG).is_file()), own)


def _read(file: Path) -> dict[str, Any] | None:
    """What a checkpoint holds, its tensors left on the disk; None for one that is cut short, or no checkpoint."""
    import torch  # a sweep's own process needs none of it

    try:
        contents = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception:  # damaged in one of many ways
        return None
    return contents if isinstance(contents, dict) and "state_dict" in contents else None


def _found(file: Path, contents: dict[str, Any]) -> Found:
    beside = run_of(file) / CONFIG
    is_of_config = beside.is_file() and _config(contents.get("config")) == _config(beside.read_text(encoding="utf-8"))
    return Found(is_of_config, contents.get("global_step", 0), file.stat().st_mtime_ns, file)


def _config(text: str | None) -> Any:
    """A config as it can be compared: a run that went on from a checkpoint is the same run."""
    try:
        config = yaml.safe_load(text or "")
    except yaml.YAMLError:
        return None
    return {key: value for key, value in config.items() if key != "ckpt_path"} if isinstance(config, dict) else None
