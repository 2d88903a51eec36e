"""FeatureBuffer: keeps image features during an evaluation, in RAM up to a limit, beyond it in memory-mapped files."""

import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor


class FeatureBuffer:
    """Rows of tensors, kept batch by batch in their own dtype and read one by one.

    A file is deleted as soon as it is mapped, so its disk space is free again when this object goes, however the
    process ends. Mapped rows are read from disk on access, and leave RAM when it is short.

    Args:
        limit_gb: GB (1e9 bytes) that this process may keep in RAM. The rest goes to the folder that TMPDIR names, which
            should not lie in RAM itself.
    """

    def __init__(self, limit_gb: float):
        self.limit_gb, self.held = limit_gb, 0
        self.batches: list[Tensor] = []

    def add(self, rows_B: Tensor) -> None:
        """Keep rows [B, ...]. Raises OSError if the disk is full."""
        rows_B = rows_B.cpu().contiguous()
        if self.held + rows_B.nbytes > self.limit_gb * 1e9:
            self.batches.append(self._mapped(rows_B))
        else:
            self.batches.append(rows_B)
            self.held += rows_B.nbytes

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __iter__(self) -> Iterator[Tensor]:
        for rows_B in self.batches:
            yield from rows_B

    def _mapped(self, rows_B: Tensor) -> Tensor:
        with tempfile.NamedTemporaryFile(prefix="lit_blip2_features_") as file:
            try:  # not written through the mapping, where a full disk would kill the process silently
                rows_B.view(torch.uint8).numpy().tofile(file)
            except OSError as error:
                raise OSError(
                    f"{len(rows_B)} images' features ({rows_B.nbytes / 1e6:.0f} MB) beyond features_gb={self.limit_gb} "
                    f"find no room in {tempfile.gettempdir()}: point TMPDIR to a larger folder, or raise features_gb "
                    f"({error})"
                ) from error
            file.flush()
            return torch.from_file(file.name, shared=False, size=rows_B.numel(), dtype=rows_B.dtype).view_as(rows_B)
