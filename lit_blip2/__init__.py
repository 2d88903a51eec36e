"""lit_blip2: a PyTorch Lightning experiment suite for BLIP-2. Importing the package imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path


def load(run: str | Path, device: str | None = None, precision: str | None = None, allow: Sequence[str] = ()):
    """Load a trained run to caption images, answer questions and compare images with texts (docs/python.md).

    Args:
        run: a run's folder, such as runs/mini_opt, whose newest complete checkpoint is used; or a checkpoint file.
        device: a torch device such as cuda:1 or cpu; None: a GPU if there is one, else the CPU.
        precision: 32-true, bf16-mixed or 16-mixed, as in Lightning's Trainer; None: the run's own.
        allow: packages, modules or classes, such as my_project, that the checkpoint's configuration may name in
            addition to this package's own (SECURITY.md).
    Returns:
        a lit_blip2.loaded.Loaded.
    Raises:
        FileNotFoundError: the checkpoint or its frozen weights are missing.
        ValueError: the checkpoint is damaged, does not fit its configuration, or names a class that is not allowed; or
            the device or precision is not available.
    """
    from lit_blip2.inference import load  # imports torch, which `import lit_blip2` spares

    return load(run, device, precision, allow)
