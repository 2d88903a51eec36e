"""Files of others: weights in safetensors or .pth, whole or in shards, JSON; nothing in them runs."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lit_blip2.checkpoint import read_safely, unwrapped
from lit_blip2.contents import DataError, name_inside, read_object, reading

INDEX = ".index.json"
WRAPPERS = ("model", "state_dict")  # under which training programs keep the weights
# What a folder may hold; the first that is there counts, as in transformers.
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a file, or of a folder as Hugging Face has it; of a training checkpoint what WRAPPERS name.

    Raises FileNotFoundError, or DataError for what is damaged, holds other things than tensors, or differs from its
    index.
    """
    if not path.is_dir():
        return _read_file(path)
    for name in FILES:
        if (path / name).is_file():
            return _read_shards(path / name) if name.endswith(INDEX) else _read_file(path / name)
    raise FileNotFoundError(f"no weights in {path}: none of {', '.join(FILES)}")


def read_json(file: Path) -> dict[str, Any]:
    """Raises FileNotFoundError, or DataError for what is no JSON, or no object."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: give a folder that transformers' save_pretrained has written")
    return read_object(file)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Each weight from the shard that the index names, which must hold those that it is named for and no others."""
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise DataError(f"{index} is no index of shards: it has no weight_map of names")
    state = {}
    for shard in sorted(set(placed.values())):
        name_inside(shard, index, "shards lie beside their index")
        held, wanted = _read_file(index.parent / shard), {key for key, place in placed.items() if place == shard}
        if missing := sorted(wanted - held.keys()):
            raise DataError(f"{index} names {missing[0]} ({len(missing)} such), which {shard} does not hold")
        if stray := sorted(held.keys() - wanted):
            raise DataError(f"{shard} holds {stray[0]} ({len(stray)} such), which {index} does not place there")
        state |= held
    return state


def _read_file(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    if file.suffix == ".safetensors":
        with reading(file, "file of weights"):
            return load_file(file)
    content = read_safely(file)
    content = unwrapped(content, WRAPPERS, file) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise DataError(f"{file} holds no state dict, by itself or under {' or '.join(WRAPPERS)}")
    return without_wrapper(content)


def without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DistributedDataParallel and torch.compile put in front of all of them."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(name.startswith(prefix) for name in state):
            return without_wrapper({name.removeprefix(prefix): value for name, value in state.items()})
    return state
