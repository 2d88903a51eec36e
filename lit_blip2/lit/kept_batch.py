"""A batch in a file that is safe to read: tensors, texts and numbers, no pickled class."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_blip2.checkpoint import check_held, read_safely
from lit_blip2.contents import DataError, reading
from lit_blip2.model.target_text import TargetText
from lit_blip2.model.text import PackedText
from lit_blip2.whole_files import written_whole

FOLDER = "not_finite"  # in a run's folder
CLASS = "class"  # key under which the name of one of TEXTS stands
TEXTS = {each.__name__: each for each in (PackedText, TargetText)}
PLAIN = str | int | float | bool | None
# Keys and types in the file of a non-finite step: of the whole, of each value found, and of each micro-batch.
STEP = {"step": int, "rank": int, "ranks": int, "found": list, "batches": list}
FOUND = {"rank": int, "name": str, "value": float}
BATCH = {"step": int, "seed": int, "row": Tensor, "image_id": Tensor, "micro_batch": list}
WAY_OUT = f"name a file of {FOLDER}/ in a run's folder"


def keep(file: Path, contents: dict[str, Any]) -> None:
    """Write nested dicts and lists of batches, tensors on any device. What is neither tensor, text, number nor one of
    TEXTS is left out."""
    with written_whole(file) as part:
        torch.save(_plain(contents), part)


def read_kept(file: Path) -> dict[str, Any]:
    """Read a step that `keep` wrote, to the CPU. Raises FileNotFoundError, ValueError for a file of another kind, and
    DataError if a part is missing or of another type."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {str(file)!r}: a run that ends at a step that is not finite names its own")
    contents = read_safely(file)
    if not isinstance(contents, dict) or not {"step", "batches"} <= contents.keys():
        raise ValueError(f"{file} is no kept batch: {WAY_OUT}")
    with reading(file, "kept batch", WAY_OUT):
        check_held(contents, file)
        kept = _restored(contents)
    _check(kept, STEP, str(file))
    for place, found in enumerate(kept["found"]):
        _check(found, FOUND, f"{file}: found.{place}")
    for place, batch in enumerate(kept["batches"]):
        _check(batch, BATCH, where := f"{file}: batches.{place}")
        _check_rows(batch, where)
    return kept


def _check(part: Any, kinds: dict[str, type], where: str) -> None:
    """Raises DataError unless `part` is a dict with values of these types."""
    given = part if isinstance(part, dict) else {}
    for name, kind in kinds.items():
        if not isinstance(given.get(name), kind):
            wrong = f"is of type {type(given[name]).__name__}" if name in given else "is missing"
            raise DataError(f"{where}: {name} {wrong}, where {kind.__name__} is wanted: {WAY_OUT}")


def _check_rows(batch: dict[str, Any], where: str) -> None:
    """Raises DataError unless a micro-batch names its rows, and its place among the micro-batches of its step."""
    rows, images, place = batch["row"], batch["image_id"], batch["micro_batch"]
    if rows.dim() != 1 or not len(rows) or rows.is_floating_point() or images.shape != rows.shape:
        raise DataError(
            f"{where}: row is {list(rows.shape)}, image_id {list(images.shape)}, not one id a row: {WAY_OUT}"
        )
    if len(place) != 2 or not all(isinstance(each, int) for each in place):
        raise DataError(f"{where}: micro_batch is not two whole numbers: {WAY_OUT}")


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
