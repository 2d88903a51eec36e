"""Ranks that would train differently refuse to start."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch

from lit_blip2.config import flat, from_text, unplaced
from lit_blip2.distributed import gather_lists, rank, world_size
from lit_blip2.runs import WRITES
from lit_blip2.sources import digest, sources

HARMLESS = ("num_workers", *WRITES)  # arguments in which ranks may differ
SHOWN = 5  # differences that a message names
LONGEST = 60  # letters of a value


class Agreement(L.Callback):
    """At the start of any command, each rank's resolved configuration, sources of this package, versions of torch and
    Lightning, and rows to train on must be the same. Where files lie, and how many processes load them, may differ.

    One digest of each rank is gathered, and only where they differ what stands behind it.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if world_size() > 1:
            check_agreed(settings_of(pl_module.config, trainer.datamodule))


def settings_of(config: str, data: Any) -> dict[str, str]:
    """All that must be the same on every rank, by name, in words."""
    own = flat(unplaced(from_text(config, "this run").settings, HARMLESS), "")
    own |= {".sources of lit_blip2": sources(), ".torch": torch.__version__, ".lightning": L.__version__}
    if getattr(data, "pairs", None) is not None:
        own[".what is trained on"] = data.rows()
    return {name.lstrip("."): str(value) for name, value in own.items()}


def check_agreed(own: dict[str, str]) -> None:
    """Raises ValueError on the first rank, and SystemExit on the others a little later, where `own` differs."""
    if len(set(gather_lists([digest((name, own[name].encode()) for name in sorted(own))]))) == 1:
        return
    told = differing(gather_lists([own]))
    if rank():
        time.sleep(2)  # who started the ranks ends all when one has: the first has a line to say
        raise SystemExit(1)
    raise ValueError(
        f"the ranks of this run differ, so nothing is started: {told}. Start each with the same command, files and "
        "version of this package"
    )


def differing(of_ranks: Sequence[Mapping[str, str]]) -> str:
    """Each name whose value is not the same on all ranks, the values, and whose they are."""
    names = [name for name in dict.fromkeys(name for each in of_ranks for name in each)]
    told = []
    for name in names:
        ranks: dict[str, list[int]] = {}
        for number, each in enumerate(of_ranks):
            ranks.setdefault(each.get(name, "not set"), []).append(number)
        if len(ranks) > 1:
            told.append(f"{name} is " + " and ".join(f"{_cut(value)} on {_named(of)}" for value, of in ranks.items()))
    return "; ".join(told[:SHOWN]) + (f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else "")


def _named(ranks: Sequence[int]) -> str:
    """Ranks in words; of many the first ones."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}..."
