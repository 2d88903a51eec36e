"""How Lightning writes and reads checkpoints here."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch.utils._pytree import tree_leaves

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.whole_files import written_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a file beside its place, which is then renamed. A reader finds the former checkpoint or
    the new one, whole, whenever a process or a machine dies. `read_checkpoint` refuses files that were damaged later.

    Lightning's own class writes to TMPDIR and copies, so a kill may leave half a file if TMPDIR is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):  # remote storage, which cannot rename
            return super().save_checkpoint(checkpoint, path, storage_options)
        size = sum(each.nbytes for each in tree_leaves(checkpoint) if isinstance(each, torch.Tensor))
        with written_whole(Path(path), size) as part:
            torch.save(checkpoint, part)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super().load_checkpoint(path, *args, **kwargs) if "://" in str(path) else read_checkpoint(path)
