"""Decides which loggers give a run its folder, and the run's name in the others, such as trackers on a server.

Lightning takes a run's folder, in which config.yaml, metrics.json and checkpoints lie, from its first logger, and only
TensorBoardLogger and CSVLogger have a folder for each run: these come first here. A logger is `{class_path: NAME,
init_args: {...}}`, as a dict or as a Namespace of jsonargparse.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WITH_FOLDER = ("TensorBoardLogger", "CSVLogger")
CSV = "lightning.pytorch.loggers.CSVLogger"  # added if no given logger has a folder
TITLES = ("name", "run_name")  # a tracker's argument for the name of a run: of W&B, of MLflow


def as_list(logger: Any) -> list[Any]:
    """The loggers that `trainer.logger` names, those with a folder first; empty for True, False or None."""
    given = logger if isinstance(logger, list) else [logger]
    return sorted((each for each in given if each and each is not True), key=lambda each: not has_folder(each))


def has_folder(logger: Any) -> bool:
    """Whether a logger has a folder for each run."""
    return logger["class_path"].endswith(WITH_FOLDER)


def places(logger: Any) -> list[Any]:
    """Arguments of the loggers that write into a run's folder: the first that names one, and those that share it."""
    settings = [each["init_args"] for each in as_list(logger) if has_folder(each) and each.get("init_args")]
    named = [each for each in settings if each.get("name") and each.get("save_dir")]
    return [each for each in named if (each["save_dir"], each["name"]) == (named[0]["save_dir"], named[0]["name"])]


def folders(logger: Any) -> list[Path]:
    """The folders of runs that loggers name completely, with a version."""
    given = [(each["save_dir"], each["name"], each.get("version")) for each in places(logger)]
    return [Path(root, name, v if isinstance(v, str) else f"version_{v}") for root, name, v in given if v is not None]


def entitle(logger: Any, title: str, anew: bool = False) -> None:
    """Set the name of the run in a logger. A given name stays, unless `anew`."""
    settings = logger.get("init_args") or {}
    for name in TITLES:
        if name in settings and (anew or settings[name] is None):
            settings[name] = title


def in_folder(logger: Any, where: Mapping[str, str], title: str) -> Any:
    """The loggers of a run whose folder is known. where: save_dir, name and version. title: the run's name in loggers
    without a folder. If no logger has a folder, CSVLogger is put before them."""
    given = copy.deepcopy(as_list(logger))
    if not any(map(has_folder, given)):
        given = [{"class_path": CSV, "init_args": {}}, *given]
    for each in given:
        if has_folder(each):
            each["init_args"] = (each.get("init_args") or {}) | where
        else:
            entitle(each, title, anew=True)
    return given[0] if len(given) == 1 else given
