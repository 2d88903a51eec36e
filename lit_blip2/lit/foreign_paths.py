"""Removes foreign paths from a checkpoint's record of Lightning's ModelCheckpoint, which deletes surpassed files.

In a checkpoint from somebody else, these paths may be any files of the user or of a server.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from lit_blip2.terminal import printable

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


def forget_foreign_paths(callbacks: Iterable[L.Callback], checkpoint: dict[str, Any]) -> None:
    """Clear the record of a callback in a checkpoint, in place, if one of its paths leads out of the callback's
    folder."""
    states = checkpoint.get("callbacks")
    for callback in callbacks:
        state = states.get(callback.state_key) if isinstance(states, dict) else None
        if not isinstance(callback, ModelCheckpoint) or not isinstance(state, dict):
            continue
        told = [state.get(name) for name in PATHS] + list(state.get("best_k_models") or {})
        if foreign := [path for path in map(str, told) if leads_out(path, str(callback.dirpath))]:
            rank_zero_warn(
                f"the checkpoint has {printable(foreign[0])} among its best ones, which leads out of "
                f"{callback.dirpath}: that file is left alone, and best checkpoints are counted from here on"
            )
            state |= dict.fromkeys(PATHS, "") | {"best_k_models": {}, "kth_value": None, "best_model_score": None}


def leads_out(path: str, folder: str) -> bool:
    """Whether a path is on another server than the folder, or is in the folder by name but not in truth.
    (ModelCheckpoint never removes a path that is elsewhere by name too.)"""
    if any(sign in text for sign in ("://", "::") for text in (path, folder)):
        return not path.startswith(f"{folder.rstrip('/')}/") and path not in ("", "None")
    real = os.path.join(os.path.realpath(folder), "")
    is_named_so = os.path.join(os.path.abspath(folder), "") in os.path.join(os.getcwd(), path)
    return ".." in Path(path).parts or (is_named_so and not os.path.realpath(path).startswith(real))
