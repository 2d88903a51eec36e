"""Weights in files of others: safetensors or .pth, whole or in shards; nothing in them is executed."""

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a file, or of a folder as Hugging Face has it; of a training checkpoint its "model".

    Raises FileNotFoundError, or ValueError for what is damaged, holds other things than tensors, or lacks a shard.
    """
    if not path.is_dir():
        return _read_file(path)
    for name in INDEXES:
        if (path / name).is_file():
            try:
                placed = json.loads((path / name).read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError) as error:
                raise ValueError(f"{path / name} is no index of shards: {error}") from error
            state = {}
            for shard in sorted(set(placed.values())):
                state |= _read_file(path / shard)
            if missing := sorted(placed.keys() - state.keys()):
                raise ValueError(f"{path / name} names {missing[0]} ({len(missing)} such), which no shard holds")
            return state
    for name in WHOLE:
        if (path / name).is_file():
            return _read_file(path / name)
    raise FileNotFoundError(f"no weights in {path}: none of {', '.join((*WHOLE, *INDEXES))}")


def read_config(path: Path) -> dict:
    """A folder's config.json. Raises FileNotFoundError, or ValueError."""
    file = path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: give a folder that transformers' save_pretrained has written")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error


def _read_file(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or cut: {error}") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged in one of many ways, or a pickle that wants to run code
        code = isinstance(error, pickle.UnpicklingError) and "weights only" in str(error).lower()
        reason = (
            "it holds more than tensors; nothing in it was executed" if code else "it is damaged, or of another kind"
        )
        raise ValueError(f"{file} cannot be read: {reason} ({str(error).splitlines()[0][:200]})") from error
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} holds no state dict, by itself or under `model`")
    return content
