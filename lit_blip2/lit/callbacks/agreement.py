"""Agreement: stops a run at its start if its ranks have different settings, code or data."""

import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lit_blip2.config import flat, from_text, strings, unplaced
from lit_blip2.data.module import PairData
from lit_blip2.distributed import gather_lists, rank, world_size
from lit_blip2.runs import WRITES
from lit_blip2.sources import digest, own_sources, sources
from lit_blip2.terminal import first_few

HARMLESS = ("num_workers", *WRITES)  # arguments in which ranks may differ
LIBRARIES = ("torch", "lightning", "timm", "transformers", "tokenizers")
ENVIRONMENT = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # set the precision of matrix products
SHOWN = 5  # differences that a message names
LONGEST = 60  # characters of a value that a message shows


class Agreement(L.Callback):
    """Stops a run at the start of a command if its ranks differ.

    All ranks must have the same resolved configuration, source code (of this package and of the configuration's
    classes), library versions, matrix product precision, training rows, evaluation annotations and checkpoint. Paths
    and numbers of loading processes may differ. Ranks exchange one digest each, and the settings only if these differ.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if world_size() > 1:
            check_agreed(settings_of(pl_module.config, trainer.datamodule))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        """Compare the checkpoints: each machine may have a different file of the same name on its own disk."""
        if world_size() > 1 and trainer.ckpt_path is not None:
            check_agreed({"the checkpoint": contents_of(Path(trainer.ckpt_path))})


def settings_of(config: str, data: Any) -> dict[str, str]:
    """name -> value, as text, of everything that must be equal on all ranks."""
    settings = from_text(config, "this run").settings
    own = flat(unplaced(settings, HARMLESS), "")
    own |= {".sources of lit_blip2": sources()} | {f".{name}": _version(name) for name in LIBRARIES}
    own |= {f".source of {name}": told for name, told in own_sources(strings(settings)).items()}
    own |= {".float32 products": torch.get_float32_matmul_precision()}
    own |= {f".{name}": os.environ[name] for name in ENVIRONMENT if name in os.environ}
    if getattr(data, "pairs", None) is not None:
        own[".what is trained on"] = data.rows()
    if isinstance(data, PairData):
        own |= {f".annotations of {name}": told for name, told in data.evaluated_files().items()}
    return {name.lstrip("."): str(value) for name, value in own.items()}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # some builds have no metadata
        return "unknown"


def contents_of(checkpoint: Path) -> str:
    """A digest of the checksums in a checkpoint's archive; for an older file format, its size."""
    if not zipfile.is_zipfile(checkpoint):
        return f"{checkpoint.stat().st_size} bytes"
    with zipfile.ZipFile(checkpoint) as parts:  # each part's name begins with the file's own
        return digest((each.filename.partition("/")[2], each.CRC.to_bytes(4)) for each in parts.infolist())


def check_agreed(own: dict[str, str]) -> None:
    """If `own` differs between ranks, raises ValueError on the first rank, and SystemExit on the others a bit later."""
    if len(set(gather_lists([digest((name, own[name].encode()) for name in sorted(own))]))) == 1:
        return
    told = differing(gather_lists([own]))
    if rank():
        time.sleep(2)  # a launcher ends all ranks when one ends: let the first print its line
        raise SystemExit(2)
    raise ValueError(
        f"the ranks of this run differ, so nothing is started: {told}. Start each with the same command, files and "
        "version of this package"
    )


def differing(of_ranks: Sequence[Mapping[str, str]]) -> str:
    """A message with each name whose value differs, the values, and the ranks that have them."""
    names = [name for name in dict.fromkeys(name for each in of_ranks for name in each)]
    told = []
    for name in names:
        ranks: dict[str, list[int]] = {}
        for number, each in enumerate(of_ranks):
            ranks.setdefault(each.get(name, "not set"), []).append(number)
        if len(ranks) > 1:
            same = next(
                (place for place, letters in enumerate(zip(*ranks)) if len(set(letters)) > 1), min(map(len, ranks))
            )
            told.append(
                f"{name} is " + " and ".join(f"{_cut(value, same)} on {_named(of)}" for value, of in ranks.items())
            )
    return first_few(told, SHOWN, "; ")


def _named(ranks: Sequence[int]) -> str:
    """Ranks as text, such as `ranks 0, 1`; of many only the first ones."""
    return f"rank{'s' if len(ranks) > 1 else ''} {first_few(list(map(str, ranks)), 8)}"


def _cut(value: str, same: int) -> str:
    """A value as a message shows it: of a long one, the part around its first differing character, number `same`."""
    if len(value) <= LONGEST:
        return value
    begin = max(0, same - LONGEST // 2)
    return ("..." if begin else "") + value[begin : begin + LONGEST] + ("..." if begin + LONGEST < len(value) else "")
