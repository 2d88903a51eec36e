"""Removes the folder of a run that fails before its first step."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lit_blip2.runs import HELD

MADE_FIRST = ("events.out.tfevents.*", "hparams.yaml", HELD)  # what a run's folder holds before its first step


@contextmanager
def leaving_no_folder(trainer: Any) -> Iterator[None]:
    """While a Trainer runs: an error before the first step, or before a test's first result, removes the folders of its
    loggers, and the folder of their name if nothing else is in it."""
    try:
        yield
    except BaseException:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if (folder := getattr(logger, "log_dir", None)) is not None:
                    remove_begun(Path(folder))
        raise


def remove_begun(folder: Path) -> None:
    """Remove a folder that holds nothing but what is made before a run begins."""
    if folder.is_symlink() or not folder.is_dir():
        return
    if all(file.is_file() and any(fnmatch(file.name, each) for each in MADE_FIRST) for file in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # other runs of the experiment are in it
            folder.parent.rmdir()
