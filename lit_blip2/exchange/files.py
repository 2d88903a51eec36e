"""Files of others: weights in safetensors or .pth, whole or in shards, JSON; nothing in them runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lit_blip2.checkpoint import read_safely, unwrapped
from lit_blip2.contents import DataError, name_inside, read_object, reading
from lit_blip2.zeros import check_zeros

INDEX = ".index.json"
WRAPPERS = ("model", "state_dict", "module")  # under which training programs keep the weights
# What wrappers put in front of all names, and anywhere in them: DDP, FSDP, torch.compile, recomputing, DeepSpeed.
IN_FRONT = ("module.", "model.", "net.")
ANYWHERE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
FLAT = {"flat_param", "_flat_param"}  # of FSDP: many weights in one
ZERO = "DeepSpeed's weights in parts: join them by `python zero_to_fp32.py . OUT`, which lies beside them, and give OUT"
DISTRIBUTED = (
    "weights in parts: join them by `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`, "
    "and give FILE"
)
# Files of a folder -> what it holds.
IN_PARTS = {
    "zero_to_fp32.py": ZERO,
    "*zero_pp_rank_*.pt": ZERO,
    "mp_rank_*.pt": "DeepSpeed's checkpoint: give its mp_rank_00_model_states.pt",
    "*.distcp": DISTRIBUTED,
    "*/*.distcp": DISTRIBUTED,
}
# What a folder may hold; the first that is there counts, as in transformers.
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a file, or of a folder as Hugging Face has it; of a training checkpoint what WRAPPERS name,
    under the names that the model has without them.

    Raises FileNotFoundError, or DataError for what is damaged, holds other things than tensors, or differs from its
    index or has lost weights to zeros, and for parts of weights, with the way to join them.
    """
    state = _read(path)
    check_zeros(state, path)
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_dir():
        return _plain(_read_file(path), path)
    for name in FILES:
        if (file := path / name).is_file():
            return _plain(_read_shards(file) if name.endswith(INDEX) else _read_file(file), file)
    for name, what in IN_PARTS.items():
        if any(path.glob(name)):
            raise FileNotFoundError(f"no weights in {path} as one file: it holds {what}")
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
    whole = content if isinstance(content, dict) else {}
    content = unwrapped(content, WRAPPERS, file) if isinstance(content, dict) else content
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        parts = f": it is one of {ZERO}" if {"ds_version", "optimizer_state_dict"} & whole.keys() else ""
        raise DataError(f"{file} holds no state dict, by itself or under {' or '.join(WRAPPERS)}{parts}")
    if whole.get("mp_world_size", 1) != 1 or ("param_shapes" in whole and not all(map(Tensor.numel, content.values()))):
        raise DataError(f"{file} does not hold all weights: it is one of {ZERO}")
    return dict(content)


def _plain(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without what wrappers of a model put into them. Raises DataError for weights that FSDP has laid together,
    and where two have one name."""
    if flat := [name for name in state if FLAT & set(name.split("."))]:
        raise DataError(
            f"{path} holds {flat[0]} ({len(flat)} such), FSDP's flat parameters: save its full state dict, by "
            "FSDP.set_state_dict_type(model, StateDictType.FULL_STATE_DICT)"
        )
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        short = ".".join(part for part in name.split(".") if part not in ANYWHERE)
        if short in plain:
            raise DataError(f"{path} holds {short} twice, once as {name}: save the weights of one model alone")
        plain[short] = value
    for prefix in IN_FRONT:
        if plain and all(name.startswith(prefix) for name in plain):
            return _plain({name.removeprefix(prefix): value for name, value in plain.items()}, path)
    return plain
