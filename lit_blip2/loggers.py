"""Which of a run's loggers give it its folder, and by what name the others, such as trackers on a server, know it.

Lightning takes a run's folder, in which config.yaml, metrics.json and checkpoints lie, from its first logger, and only
TensorBoardLogger and CSVLogger have a folder for each run: these come first here. A logger is `{class_path: NAME,
init_args: {...}}`, as a dict or as a Namespace of jsonargparse.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WITH_FOLDER = ("TensorBoardLogger", "CSVLogger")
CSV = "lightning.pytorch.loggers.CSVLogger"  # takes a run's folder where no logger that is named has one
TITLES = ("name", "run_name")  # arguments by which a tracker is told what to call a run: of W&B, of MLflow


def as_list(logger: Any) -> list[Any]:
    """The loggers that `trainer.logger` names, those with a folder first; none of a switch, or of nothing."""
    given = logger if isinstance(logger, list) else [logger]
    return sorted((each for each in given if each and each is not True), key=lambda each: not has_folder(each))


def has_folder(logger: Any) -> bool:
    """Whether it has a folder for each run."""
    return logger["class_path"].endswith(WITH_FOLDER)


def places(logger: Any) -> list[Any]:
    """The arguments of the loggers that write into a run's folder: the first that names one, those that share it."""
    settings = [each["init_args"] for each in as_list(logger) if has_folder(each) and each.get("init_args")]
    named = [each for each in settings if each.get("name") and each.get("save_dir")]
    return [each for each in named if (each["save_dir"], each["name"]) == (named[0]["save_dir"], named[0]["name"])]


def folders(logger: Any) -> list[Path]:
    """The runs' folders that a logger names whole."""
    given = [(each["save_dir"], each["name"], each.get("version")) for each in places(logger)]
    return [Path(root, name, v if isinstance(v, str) else f"version_{v}") for root, name, v in given if v is not None]


def entitle(logger: Any, title: str, anew: bool = False) -> None:
    """Let it call its run so; a name that was given stays, unless `anew`."""
    settings = logger.get("init_args") or {}
    for name in TITLES:
        if name in settings and (anew or settings[name] is None):
            settings[name] = title


def in_folder(logger: Any, where: Mapping[str, str], title: str) -> Any:
    """The loggers of a run whose folder is known. where: save_dir, name and version; title: for those without a folder.
    Where no logger has a folder, CSVLogger is put before them."""
    given = copy.deepcopy(as_list(logger))
    if not any(map(has_folder, given)):
        given = [{"class_path": CSV, "init_args": {}}, *given]
    for each in given:
        if has_folder(each):
            each["init_args"] = (each.get("init_args") or {}) | where
        else:
            entitle(each, title, anew=True)
    return given[0] if len(given) == 1 else given
