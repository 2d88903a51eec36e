"""Training batches by key (step, global row, sample): a text and a view of each image, drawn by `row_rng`."""

from collections import Counter

import numpy as np
import torch
from torch.utils.data import Dataset

from lit_blip2.data.batches.evaluation import Batch
from lit_blip2.data.batches.order import row_rng
from lit_blip2.data.batches.pairs import PairSource
from lit_blip2.data.faults import Fault
from lit_blip2.data.features.store import CachedView, gathered
from lit_blip2.data.images import UnreadableImageError

MOST_TRIES = 10


class TrainPairs(Dataset):
    """Returns a whole batch for a list of keys. An unreadable image is replaced by another sample of its source, which
    (seed, step, row) decides. `faults` of the batch reports it.
    """

    def __init__(self, source: PairSource, seed: int):
        self.source, self.seed = source, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> Batch:
        faults: list[Fault] = []
        steps, rows, samples = zip(*keys)
        sources = Counter(self.source.span(sample).pairs.name for sample in samples)
        image_ids, texts, views = zip(*(self._row(*key, faults) for key in keys))
        if mixed := [each for each in texts if each.keys() != texts[0].keys()]:
            raise ValueError(f"a mixture of sources with {', '.join(texts[0])} and with {', '.join(mixed[0])}")
        return {
            self.source.kind: torch.stack(views) if self.source.kind == "image" else gathered(views),
            **{name: [each[name] for each in texts] for name in texts[0]},
            "image_id": torch.tensor(image_ids, dtype=torch.int64),
            "row": torch.tensor(rows, dtype=torch.int64),
            "step": steps[0],
            "seed": self.seed,
            "task": "train",
            "faults": (sources, faults),
        }

    def _row(
        self, step: int, row: int, sample: int, faults: list[Fault]
    ) -> tuple[int, dict[str, str], torch.Tensor | CachedView]:
        """Image id, texts and view of a row, after any replacement. Raises RuntimeError if no image can be read."""
        rng, part = row_rng(self.seed, step, row), self.source.span(sample)
        for attempt in range(1, MOST_TRIES + 1):
            texts = part.draw(sample, rng)
            try:
                return part.image_id(sample), texts, part.view(sample, rng)
            except (UnreadableImageError, FileNotFoundError) as error:
                reason, told = error.reason if isinstance(error, UnreadableImageError) else "missing", str(error)
            if attempt == 1:  # an unreadable replacement is counted in its own row
                faults.append(Fault(part.pairs.name, reason, told))
            rng = np.random.default_rng((self.seed, step, row, attempt))
            sample = part.another(sample, rng)
        raise RuntimeError(f"{MOST_TRIES} images drawn in turn cannot be read, the last: {told}")
