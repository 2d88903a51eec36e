"""A batch in a file that is safe to read: tensors, texts and numbers, no pickled class."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_blip2.checkpoint import check_held, read_safely
from lit_blip2.model.target_text import TargetText
from lit_blip2.model.text import PackedText
from lit_blip2.whole_files import written_whole

FOLDER = "not_finite"  # in a run's folder
CLASS = "class"  # key under which the name of one of TEXTS stands
TEXTS = {each.__name__: each for each in (PackedText, TargetText)}
PLAIN = str | int | float | bool | None


def keep(file: Path, contents: dict[str, Any]) -> None:
    """Write nested dicts and lists of batches, tensors on any device. What is neither tensor, text, number nor one of
    TEXTS is left out."""
    with written_whole(file) as part:
        torch.save(_plain(contents), part)


def read_kept(file: Path) -> dict[str, Any]:
    """What `keep` wrote, on the CPU. Raises FileNotFoundError, and ValueError for another file."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {str(file)!r}: a run that ends at a step that is not finite names its own")
    contents = read_safely(file)
    if not isinstance(contents, dict) or not {"step", "batches"} <= contents.keys():
        raise ValueError(f"{file} is no kept batch: name a file of {FOLDER}/ in a run's folder")
    check_held(contents, file)
    return _restored(contents)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if type(value).__name__ in TEXTS:
        own = {each.name: getattr(value, each.name) for each in fields(value)}
        return {CLASS: type(value).__name__} | _plain(own)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items() if _is_kept(each)}
    return [_plain(each) for each in value if _is_kept(each)] if isinstance(value, list | tuple) else value


def _is_kept(value: Any) -> bool:
    return isinstance(value, Tensor | dict | list | tuple | PLAIN) or type(value).__name__ in TEXTS


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    own = {key: _restored(each) for key, each in value.items() if key != CLASS}
    return TEXTS[value[CLASS]](**own) if value.get(CLASS) in TEXTS else own
