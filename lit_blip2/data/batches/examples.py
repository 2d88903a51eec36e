"""Examples in a prompt: solved questions in front of the asked one."""

from collections.abc import Sequence

import numpy as np
import torch

from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.batches.evaluation import Batch, Features, Pixels
from lit_blip2.keyed import check_seed


class Examples:
    """Draws `count` solved questions for each asked question, a function of (seed, question id) alone.

    They are about `count` different images, never the asked one. The answer is the non-empty one that most annotators
    gave.

    Raises ValueError for too few images to draw from, and for questions without answers.
    """

    def __init__(self, table: Questions, source: Pixels | Features, count: int, seed: int):
        if not len(table := table.answered()):
            raise ValueError(f"{count} examples in a prompt need solved questions, and these have no answers")
        images = len(np.unique(table.image_ids))
        if images <= count:
            raise ValueError(
                f"{count} examples of different images, none of them the asked one, cannot be drawn from questions "
                f"about {images} images: ask for fewer than {images}"
            )
        self.table, self.source, self.count, self.seed = table, source, count, seed

    def rows(self, question_id: int, image_id: int) -> list[int]:
        """Rows of the table, in the order of the prompt."""
        rng, rows, seen = np.random.default_rng((check_seed(self.seed), question_id % 2**64)), [], {image_id}
        while len(rows) < self.count:
            row = int(rng.integers(len(self.table)))
            if (image := int(self.table.image_ids[row])) not in seen:
                rows.append(row)
                seen.add(image)
        return rows

    def batches(self, question_ids: Sequence[int], image_ids: Sequence[int]) -> list[Batch]:
        """The first example of every question, then the second, and so on: `count` batches."""
        drawn = [self.rows(*ids) for ids in zip(question_ids, image_ids, strict=True)]
        return [self._batch([rows[place] for rows in drawn]) for place in range(self.count)]

    def _batch(self, rows: list[int]) -> Batch:
        table, image_ids = self.table, self.table.image_ids[rows]
        answers = [[answer for answer in table.answers_of(row) if answer] for row in rows]
        return {
            self.source.name: self.source.load([table.files[row] for row in rows], image_ids),
            "image_id": torch.from_numpy(image_ids),
            "question_id": table.question_ids[rows].tolist(),
            "question": [table.texts[row] for row in rows],
            "answer": [max(given, key=given.count) for given in answers],
        }
