"""The command of a step run, as a person would type it, and the YAML that it reads."""

import sys
from typing import Any

import yaml

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run.made import going_on
from lit_blip2.ablation.schema import StepRun
from lit_blip2.ablation.spec.step import REFERENCE
from lit_blip2.loggers import in_folder
from lit_blip2.whole_files import write_text


def command(run: StepRun, folder: Folder) -> list[str]:
    """The command's words. A fit resumes where `going_on` says, or starts over."""
    arguments = [sys.executable, "-m", "lit_blip2", run.command, "--config", str(folder.config(run.name))]
    if run.command == "test":
        return [*arguments, "--ckpt_path", str(folder.run(next(iter(run.parents.values()))))]
    left = going_on(run, folder)
    return [*arguments, *(["--ckpt_path", str(left.checkpoint)] if left else [])]


def write_config(run: StepRun, folder: Folder) -> None:
    """Write the step's resolved YAML. References to other steps become their folders, and loggers write into the step's
    own folder or call the run SWEEP/STEP/LABELS."""
    config = _with_folders(run.config, {step: str(folder.run(name)) for step, name in run.parents.items()})
    where = {"save_dir": str(folder.root / "runs"), "name": run.step, "version": run.name.partition("/")[2]}
    title = f"{folder.root.resolve().name}/{run.name}"
    config["trainer"]["logger"] = in_folder(config["trainer"].get("logger"), where, title)
    file = folder.config(run.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, yaml.safe_dump(config, sort_keys=False))


def _with_folders(value: Any, folders: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _with_folders(each, folders) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_folders(each, folders) for each in value]
    return folders[value[1:]] if isinstance(value, str) and value.startswith(REFERENCE) else value
