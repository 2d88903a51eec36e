"""lit_blip2: a PyTorch Lightning experiment suite for BLIP-2. Importing the package imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path


def load(run: str | Path, device: str | None = None, precision: str | None = None, allow: Sequence[str] = ()):
    """A trained run, ready to caption images, answer questions, and compare images with texts: a
    lit_blip2.loaded.Loaded. docs/python.md shows what it does.

    Args:
        run: a run's folder, such as runs/mini_opt (its newest whole checkpoint), or a checkpoint.
        device: such as cuda:1 or cpu; None: a GPU where there is one.
        precision: 32-true, bf16-mixed or 16-mixed, as of Lightning's Trainer; None: the run's own.
        allow: packages, modules or classes, such as my_project, that the checkpoint's configuration may name beside
            this package's own (SECURITY.md).

    Raises FileNotFoundError for a missing checkpoint or missing frozen weights; ValueError for a checkpoint that is
    damaged, does not fit its configuration or names what it may not, and for a device or precision that is not there.
    """
    from lit_blip2.inference import load  # imports torch, which `import lit_blip2` spares

    return load(run, device, precision, allow)
