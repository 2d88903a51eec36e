"""How Lightning writes and reads checkpoints here."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch.utils._pytree import tree_leaves

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.whole_files import written_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """A checkpoint is written beside its place and then put there: whoever reads finds the former one or the new one,
    whole, wherever a process or a machine has died. What is damaged later is not read (see `read_checkpoint`).

    Lightning's own writes into TMPDIR and copies, so that a kill leaves half a file where that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):  # a store of its own, which knows no names beside a file's
            return super().save_checkpoint(checkpoint, path, storage_options)
        size = sum(each.nbytes for each in tree_leaves(checkpoint) if isinstance(each, torch.Tensor))
        with written_whole(Path(path), size) as part:
            torch.save(checkpoint, part)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super().load_checkpoint(path, *args, **kwargs) if "://" in str(path) else read_checkpoint(path)
